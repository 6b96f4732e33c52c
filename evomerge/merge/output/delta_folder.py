"""Stores a fine-tune as what differs from its base, exactly: base + delta = model bit for bit.

A folder with delta.json (how each tensor is stored, and a digest of it), delta*.safetensors and, in
files/, the model's config, tokenizer and whatever else loaders read. A tensor is stored as

    nothing             equal to the base's
    .mask and .values   fewer than half of its elements differ: a bit for each, and those that do
    .xor                more of them differ: the bits of both, exclusive or
    .whole              the base has none of that name, shape and dtype

With a density only the largest changes of each tensor are stored, with a rank two factors of it
(`.left`, `.right`) wherever they are smaller; what comes back is then close, and the error said.

Several fine-tunes share one file as TALL masks (Wang 2024, https://arxiv.org/abs/2405.07813): the
sum of their deltas and, for each model, a bit for each element. That is not exact.

    delta_t = [ |d_t| >= lam |sum - d_t| ] * sum
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoint.dtypes import ELEMENT_BYTES, FLOATS
from evomerge.checkpoint.files.companions import ALL, copy_companions
from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import CONFIG
from evomerge.checkpoint.files.header import TensorInfo, read_header
from evomerge.checkpoint.files.remote_code import copy_code
from evomerge.checkpoint.files.shards import write_shards
from evomerge.checkpoint.opening import open_stored
from evomerge.checkpoint.store import Factors, Files
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError
from evomerge.merge.digest import tensor_digest
from evomerge.merge.output.delta_bits import (
    factors_of,
    largest_changes,
    packed,
    parts_of,
    restored,
    same_bits,
    way_of,
    with_factors,
)
from evomerge.methods.deltas import sum_in_order

DESCRIPTION = "delta.json"
FORMAT = "evomerge delta 1"


@dataclass(frozen=True)
class DeltaSize:
    """Counts tensors by the way they are stored in, and the bytes of the delta and of the models.

    Attributes:
        counts: Tensors by the way they are stored in.
        stored: Bytes of the delta.
        models: Bytes of the models.
        error: Relative Frobenius norm of what is missed of the change; 0 where it is exact.
    """

    counts: Mapping[str, int]
    stored: int
    models: int
    error: float = 0.0


def extract_delta(
    model: str | Path,
    base: str | Path,
    out: str | Path,
    *,
    density: float | None = None,
    rank: int | None = None,
) -> DeltaSize:
    """Write what differs between two models as a folder, from which the first comes back exactly.

    Args:
        model: A folder or hub id.
        base: The same.
        out: The folder to make.
        density: Share of each tensor's elements that may differ, those that change most, in (0, 1].
        rank: Of the two factors that stand for a matrix's change where they are smaller.

    Raises:
        UserError: One of them cannot be read, `out` is not empty, or both are asked for.
    """
    if density is not None and (rank is not None or not 0 < density <= 1):
        raise UserError(f"--density: expected above 0, at most 1 and no --rank, but got {density}")
    if rank is not None and rank < 1:
        raise UserError(f"--rank: expected at least 1, but got {rank}")
    folder, _, ours = open_stored(model)
    _, _, theirs = open_stored(base)
    ways: dict[str, dict[str, str]] = {}
    sizes: dict[str, int] = {}
    factors: dict[str, Factors] = {}
    missed = changed = 0.0  # squared norms

    def nearest(tensor: Tensor, origin: Tensor | None) -> Tensor:
        return tensor if density is None else largest_changes(tensor, origin, density)

    for name, info in ours.tensors.items():
        whole = ours.tensor(name)
        origin = _counterpart(theirs, name, whole)
        close = nearest(whole, origin)
        how, count = way_of(close, origin)
        if rank is not None and origin is not None and _pays(info, how, count, rank):
            factors[name] = factors_of(whole, origin, rank)
            close, how = with_factors(origin, factors[name]), "low_rank"
        sizes |= _sizes_of(name, info, how, count, rank or 0)
        known = origin if origin is not None and how == "low_rank" else close
        ways[name] = {"how": how, "digest": tensor_digest(known)}
        if origin is not None and close is not whole:
            missed += float((whole.double() - close.double()).square().sum())
        if origin is not None and info.dtype in FLOATS:
            changed += float((whole.double() - origin.double()).square().sum())

    def parts() -> Iterator[tuple[str, Tensor]]:
        for name, way in ways.items():
            if name in factors:
                yield f"{name}.left", factors[name].left
                yield f"{name}.right", factors[name].right
            elif way["how"] != "equal":
                tensor = ours.tensor(name)
                origin = _counterpart(theirs, name, tensor)
                yield from parts_of(name, nearest(tensor, origin), origin, way["how"])

    description = {"format": FORMAT, "kind": "exact", "base": str(base), "tensors": ways}
    _write(Path(out), description, parts(), sizes, {"": folder})
    hows = [way["how"] for way in ways.values()]
    counts = {how: hows.count(how) for how in dict.fromkeys(hows)}
    error = math.sqrt(missed / changed) if changed else 0.0
    return DeltaSize(counts, sum(sizes.values()), _bytes(ours), error)


def _pays(info: TensorInfo, how: str, count: int, rank: int) -> bool:
    """Return whether two factors of a matrix's change are smaller than what is exact."""
    if info.dtype not in FLOATS or len(info.shape) != 2 or how == "equal":
        return False
    mask = info.numel / 8 / ELEMENT_BYTES[info.dtype] if how == "sparse" else 0
    exact = mask + (count if how == "sparse" else info.numel)
    return rank < min(info.shape) and rank * sum(info.shape) < exact


def _sizes_of(name: str, info: TensorInfo, how: str, count: int, rank: int) -> dict[str, int]:
    """Return the bytes of what is stored of a tensor, by the names that it has in the file."""
    bytes_each = ELEMENT_BYTES[info.dtype]
    if how == "sparse":
        return {f"{name}.mask": math.ceil(info.numel / 8), f"{name}.values": count * bytes_each}
    if how == "low_rank":
        left, right = (rank * size * bytes_each for size in info.shape)
        return {f"{name}.left": left, f"{name}.right": right}
    return {} if how == "equal" else {f"{name}.{how}": info.numel * bytes_each}


def tall_compress(
    models: Sequence[str], base: str | Path, out: str | Path, lam: float = 0.4
) -> DeltaSize:
    """Write several fine-tunes as one sum of their deltas and a bit mask for each.

    Each model costs a bit an element, besides one sum in float32. What comes back is close to the
    fine-tunes, not equal: the method `tall_mask` computes the same. Tensors that are no floats, or
    that differ in shape, must be equal in all models.

    Args:
        models: Folders or hub ids; named by the last part of each.
        base: What all of them were trained from.
        out: The folder to make.
        lam: How large a model's own delta must be, against the rest of the sum, to be kept.

    Raises:
        UserError: Names repeat, the models do not match, or `out` is not empty.
    """
    names = [Path(model).name for model in models]
    if len(set(names)) < len(names) or not names:
        raise UserError(f"--tall: expected models of different names, but got {names}")
    if not 0 <= lam < math.inf:
        raise UserError(f"--lam: expected at least 0, but got {lam}")
    _, _, start = open_stored(base)
    opened = [open_stored(model) for model in models]
    stores = [files for _, _, files in opened]
    changed: list[str] = []
    for name, info in start.tensors.items():
        tensor = start.tensor(name)
        for model, files in zip(models, stores, strict=True):
            other = _counterpart(files, name, tensor)
            if other is None:
                raise UserError(f"{model}: {name} is missing, or of another shape or dtype")
            if name not in changed and not same_bits(tensor, other):
                if info.dtype not in FLOATS:
                    raise UserError(f"{model}: {name} is {info.dtype} and differs from {base}'s")
                changed.append(name)
    for model, files in zip(models, stores, strict=True):
        if unknown := sorted(files.tensors.keys() - start.tensors.keys()):
            raise UserError(f"{model}: {base} has no tensor {unknown[0]}")
    sizes: dict[str, int] = {}
    for name in changed:
        elements = start.tensors[name].numel
        sizes[f"{name}.sum"] = 4 * elements
        sizes |= {f"{name}.mask.{model}": math.ceil(elements / 8) for model in names}

    def parts() -> Iterator[tuple[str, Tensor]]:
        for name in changed:
            origin = start.tensor(name).float()
            deltas = [files.tensor(name).float() - origin for files in stores]
            total = sum_in_order(deltas)
            yield f"{name}.sum", total
            for model, delta in zip(names, deltas, strict=True):
                yield f"{name}.mask.{model}", packed(delta.abs() >= lam * (total - delta).abs())

    ways = {
        name: {"how": "tall" if name in changed else "equal", "digest": tensor_digest(t)}
        for name in start.tensors
        for t in [start.tensor(name)]  # of the base's: what comes back has no digest beforehand
    }
    description = {"format": FORMAT, "kind": "tall", "base": str(base), "models": names, "lam": lam}
    folders = {name: folder for name, (folder, _, _) in zip(names, opened, strict=True)}
    _write(Path(out), {**description, "tensors": ways}, parts(), sizes, folders)
    counts = {"shared": len(changed), "equal": len(start.tensors) - len(changed)}
    return DeltaSize(counts, sum(sizes.values()), sum(map(_bytes, stores)))


def apply_delta(
    delta: str | Path, base: str | Path, out: str | Path, model: str | None = None
) -> int:
    """Write the model that a delta and its base make.

    Args:
        delta: The folder that `extract_delta` or `tall_compress` made.
        base: The base that it was made by, wherever that is now.
        out: The model folder to make.
        model: Which of several models of `tall_compress`.

    Returns:
        How many tensors it has; those of an exact delta have the digests that the delta holds.

    Raises:
        UserError: The delta is damaged, or belongs to another base; names the tensor.
    """
    folder = Path(delta)
    description = _description(folder)
    _, _, start = open_stored(base)
    stored = {}
    for file in sorted(folder.glob("delta*.safetensors")):
        stored.update(read_header(file))
    parts = Files(folder, stored, DESCRIPTION)
    names: list[str] = description.get("models", [])
    if names and model not in names:
        given = "none was named" if model is None else f"got {model}"
        raise UserError(f"{folder}: expected --model, one of {', '.join(names)}, but {given}")
    if model is not None and not names:
        raise UserError(f"{folder}: it holds one model: leave --model out")
    ways: Mapping[str, Mapping[str, str]] = description["tensors"]
    sizes = {name: _size(name, way["how"], start, parts) for name, way in ways.items()}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, way in ways.items():
            origin = start.tensor(name) if name in start.tensors else None
            close = bool(names) or way["how"] == "low_rank"
            if close and origin is not None:
                _check(origin, way, name, folder)
            tensor = restored(name, way["how"], origin, parts, model)
            if not close:
                _check(tensor, way, name, folder)
            yield name, tensor

    files = folder / "files" / (model or "")
    with atomic_folder(Path(out)) as target:
        copy_code(files, target)
        copy_companions(files, target, ALL)
        (target / CONFIG).write_bytes((files / CONFIG).read_bytes())
        write_shards(target, tensors(), sizes)
    return len(ways)


def _counterpart(files: Files, name: str, tensor: Tensor) -> Tensor | None:
    if name not in files.tensors:
        return None
    other = files.tensor(name)
    return other if (other.shape, other.dtype) == (tensor.shape, tensor.dtype) else None


def _write(
    out: Path,
    description: Mapping[str, Any],
    parts: Iterator[tuple[str, Tensor]],
    sizes: Mapping[str, int],
    folders: Mapping[str, Path],
) -> None:
    with atomic_folder(out) as target:
        if sizes:
            write_shards(target, parts, sizes, stem="delta")
        for name, folder in folders.items():
            files = target / "files" / name
            files.mkdir(parents=True)
            copy_code(folder, files)
            copy_companions(folder, files, ALL)
            (files / CONFIG).write_bytes((folder / CONFIG).read_bytes())
        text = json.dumps(description, indent=1) + "\n"
        (target / DESCRIPTION).write_text(text, encoding="utf-8")


def _description(folder: Path) -> Mapping[str, Any]:
    file = folder / DESCRIPTION
    if not file.is_file():
        raise UserError(f"{folder}: expected a folder that extract-delta made, with {DESCRIPTION}")
    description = read_json(file)
    ways = description.get("tensors") if isinstance(description, dict) else None
    known = {"equal", "sparse", "xor", "whole", "low_rank", "tall"}
    sound = isinstance(ways, dict) and all(
        isinstance(way, dict) and way.get("how") in known and isinstance(way.get("digest"), str)
        for way in ways.values()
    )
    if not sound or description.get("format") != FORMAT or "base" not in description:
        raise UserError(f"{file}: expected a description of the format {FORMAT!r}")
    return dict(description)


def _size(name: str, how: str, start: Files, parts: Files) -> int:
    info = parts.tensors.get(f"{name}.whole") if how == "whole" else start.tensors.get(name)
    if info is None:
        where = parts.folder if how == "whole" else start.folder
        raise UserError(f"{where}: it has no {name}: delta and base do not belong together")
    return info.numel * ELEMENT_BYTES[info.dtype]


def _check(tensor: Tensor, way: Mapping[str, str], name: str, folder: Path) -> None:
    if tensor_digest(tensor) != way["digest"]:
        raise UserError(
            f"{folder}: {name} does not come back as it was: the base is another than the delta's, "
            "or a file is damaged"
        )


def _bytes(files: Files) -> int:
    return sum(info.numel * ELEMENT_BYTES[info.dtype] for info in files.tensors.values())
