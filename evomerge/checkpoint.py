"""A model on disk: named tensors read lazily from safetensors shards, and written back atomically.

Only safetensors are read. A header is checked before anything parses it, shard names cannot leave
the model's folder, and pickled weights are refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evomerge.errors import UserError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SHARD = re.compile(r"[A-Za-z0-9._-]+\.safetensors")
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_TENSORS = 100_000
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor: safetensors' dtype code, shape, and the file it is in."""

    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Checkpoint:
    """A Hugging Face model folder, opened for reading; nothing but headers is read at first."""

    def __init__(self, folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]):
        self.folder = folder
        self.config = config
        self.tensors = tensors
        self._open: dict[str, Any] = {}

    @classmethod
    def open(cls, model: str | Path) -> Checkpoint:
        """Open a folder, or a hub id (``org/name[@revision]``) that is downloaded once.

        Raises:
            UserError: It is no folder with config.json and safetensors, or a file in it is damaged.
        """
        folder = resolve(model)
        config = read_config(folder)
        tensors: dict[str, TensorInfo] = {}
        for shard, promised in _shards(folder).items():
            held = read_header(folder / shard)
            lacking = next((name for name in promised if name not in held), None)
            if lacking is not None:
                raise UserError(f"{folder}: {lacking} is not in {shard}, where the index places it")
            tensors.update(held)
        return cls(folder, config, tensors)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the dtype it is stored in; memory-mapped where the format allows."""
        info = self.tensors[name]
        try:
            if info.file not in self._open:
                self._open[info.file] = safe_open(self.folder / info.file, framework="pt")
            tensor: Tensor = self._open[info.file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{self.folder / info.file}: cannot read tensor {name}: {error}"
            ) from None
        return tensor

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over config.json and every shard: what the weights are, whatever their folder."""
        digest = hashlib.sha256()
        for file in ["config.json", *sorted({info.file for info in self.tensors.values()})]:
            with (self.folder / file).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def vocabulary(self) -> dict[str, int] | None:
        """Token to id as tokenizer.json holds it; ``None`` without such a file."""
        file = self.folder / "tokenizer.json"
        if not file.is_file():
            return None
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            vocabulary = document["model"]["vocab"]
            if isinstance(vocabulary, list):  # unigram: a list of [token, score]
                vocabulary = {entry[0]: i for i, entry in enumerate(vocabulary)}
            added = {entry["content"]: entry["id"] for entry in document.get("added_tokens", [])}
            return {str(token): int(number) for token, number in {**vocabulary, **added}.items()}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"{file}: expected a tokenizer of the tokenizers library: {error}"
            ) from None

    def tokenizer_files(self) -> list[Path]:
        """The tokenizer's files that this folder holds."""
        return [self.folder / f for f in _TOKENIZER_FILES if (self.folder / f).is_file()]


def resolve(model: str | Path) -> Path:
    """The folder of a model: itself, or the local copy of a hub id."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{model}: expected a model folder but it is a file")
    if not _HUB_ID.fullmatch(str(model)):
        raise UserError(f"{model}: no such folder, and not a hub id of the form org/name")
    from huggingface_hub import snapshot_download

    name, _, revision = str(model).partition("@")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.safetensors", "*.json", *_TOKENIZER_FILES],
            )
        )
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{model}: no such folder, and the hub did not give it: {reason}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder.

    Raises:
        UserError: It is missing or no JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            f"{folder}: expected a Hugging Face model folder, but it has no config.json"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: expected JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected a JSON object")
    return config


def read_header(file: Path) -> dict[str, TensorInfo]:
    """What a safetensors file holds, checked against the file's size before anything is read.

    Raises:
        UserError: The header is damaged, oversized, or promises bytes that the file does not have.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
                raise UserError(
                    f"{file}: not a safetensors file, or truncated: "
                    f"its header claims {length} bytes in a file of {size}"
                )
            header = json.loads(stream.read(length).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot read its safetensors header: {error}") from None
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise UserError(f"{file}: expected a header of at most {_MAX_TENSORS:,} tensors")
    tensors, spans = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, end = map(_whole, entry["data_offsets"])
            shape = tuple(map(_whole, entry["shape"]))
            dtype = DTYPES[entry["dtype"]]
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{file}: tensor {name[:80]!r} has an unknown dtype or a bad entry"
            ) from None
        if len(name) > 512 or min(shape, default=0) < 0:
            raise UserError(f"{file}: tensor {name[:80]!r} has a bad name or shape")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise UserError(
                f"{file}: tensor {name!r} of shape {shape} does not fit its {end - begin} bytes"
            )
        tensors[name] = TensorInfo(entry["dtype"], shape, file.name)
        spans.append((begin, end))
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise UserError(
                f"{file}: its tensors overlap or leave a hole at byte {8 + length + position}"
            )
        position = end
    if 8 + length + position != size:
        raise UserError(
            f"{file}: truncated: expected {8 + length + position} bytes but it has {size}"
        )
    return tensors


def check_compatible(base: Checkpoint, other: Checkpoint) -> None:
    """Refuse a pair whose tensors or vocabularies differ, naming the first of them.

    Raises:
        UserError: A tensor is missing or of another shape, or token ids differ.
    """
    from evomerge.architecture import tied_partner

    wrong = []
    for name, info in base.tensors.items():
        held = other.tensors.get(name) or other.tensors.get(tied_partner(name, other.tensors) or "")
        if held is None:
            wrong.append(f"{name} is missing")
        elif held.shape != info.shape:
            wrong.append(f"{name} is {list(held.shape)}, expected {list(info.shape)}")
    for name in other.tensors:
        if name not in base.tensors and tied_partner(name, base.tensors) is None:
            wrong.append(f"{name} is not in the base")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"{other.folder}: does not match {base.folder}: {'; '.join(wrong[:5])}{more}"
        )
    ours, theirs = base.vocabulary, other.vocabulary
    if ours is not None and theirs is not None and ours != theirs:
        differing = sorted(set(ours.items()) ^ set(theirs.items()))[:5]
        listed = ", ".join(f"{token!r}={number}" for token, number in differing)
        raise UserError(
            f"{other.folder}: its tokenizer differs from that of {base.folder}, first at {listed}; "
            "merging would mix the rows of different tokens"
        )


def write_shards(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    sizes: Mapping[str, int],
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Write tensors as model.safetensors, or as numbered shards with an index.

    Args:
        folder: Where; it exists.
        tensors: (name, tensor) in the order of `sizes`; consumed one shard at a time.
        sizes: Bytes of each tensor, from which the shards are cut beforehand.
        max_shard_bytes: A shard holds at most this much, but at least one tensor.
    """
    cuts: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if cuts[-1] and held + size > max_shard_bytes:
            cuts.append([])
            held = 0
        cuts[-1].append(name)
        held += size
    stream, weight_map = iter(tensors), {}
    for number, names in enumerate(cuts, 1):
        file = "model.safetensors"
        if len(cuts) > 1:
            file = f"model-{number:05d}-of-{len(cuts):05d}.safetensors"
        shard = {}
        for expected in names:
            name, tensor = next(stream)
            assert name == expected, f"tensors must come in the order of sizes: {name}, {expected}"
            shard[name] = tensor.contiguous()
            weight_map[name] = file
        save_file(shard, folder / file, metadata={"format": "pt"})
    if len(cuts) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


@contextmanager
def atomic_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder that appears under its name only when whole; on an error nothing is left.

    Raises:
        UserError: `target` exists, is not empty, and may not be replaced.
    """
    if target.is_file() or (target.exists() and not replace and any(target.iterdir())):
        raise UserError(f"{target}: already exists; name another place or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{target}: {target.parent} is not a folder") from None
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _shards(folder: Path) -> dict[str, list[str]]:
    """A folder's shards, each confined to it, and the tensors that the index places in each."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _indexed(index)
    if (folder / "model.safetensors").is_file():
        return {"model.safetensors": []}
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    if not files:
        pickled = next((f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt")), None)
        hint = (
            f"; {pickled} is a pickle, which is never loaded: convert it to safetensors first"
            if pickled
            else ""
        )
        raise UserError(f"{folder}: expected safetensors weights, but there are none{hint}")
    return {file: [] for file in files}


def _indexed(index: Path) -> dict[str, list[str]]:
    try:
        weight_map = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{index}: expected an index with a weight_map: {error}") from None
    shards: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise UserError(
                f"{index}: shard name {str(file)[:80]!r} would leave the model's folder"
            )
        shards.setdefault(file, []).append(name)
    for file in shards:
        if not (index.parent / file).is_file():
            raise UserError(f"{index.parent / file}: a shard that the index names is missing")
    return dict(sorted(shards.items()))


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
