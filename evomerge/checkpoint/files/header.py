"""Reads safetensors headers, checked against the file's size before any tensor is parsed."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.checkpoint.dtypes import ELEMENT_BYTES
from evomerge.checkpoint.files.document import MAX_BYTES, check_file, parse_json
from evomerge.core.errors import UserError

_MAX_TENSORS = 100_000
_MAX_NAME_BYTES = 512
_MAX_AXES = 16


class TensorInfo(NamedTuple):
    """One tensor as a header describes it: safetensors' dtype code, its shape, and its file."""

    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read a safetensors header, checked against the file's size before anything is read.

    Raises:
        UserError: The file lies outside its folder, or its header is damaged, oversized, or
            promises bytes that the file does not have.
    """
    size = check_file(file)
    try:
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
            if not 2 <= length <= min(MAX_BYTES, size - 8):
                raise UserError(
                    f"{file}: not a safetensors file, or truncated: "
                    f"its header claims {length} bytes in a file of {size}"
                )
            header = parse_json(stream.read(length))
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: cannot read its safetensors header: {error}") from None
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise UserError(f"{file}: expected a header of at most {_MAX_TENSORS:,} tensors")
    _check_metadata(header.pop("__metadata__", {}), file)
    tensors, spans = {}, []
    for name, entry in header.items():
        tensors[name], span = _tensor(name, entry, file)
        spans.append(span)
    _check_spans(spans, 8 + length, size, file)
    return tensors


def _tensor(name: str, entry: Any, file: Path) -> tuple[TensorInfo, tuple[int, int]]:
    """Return one entry of a header, and the bytes that it takes."""
    try:
        begin, end = map(_whole, entry["data_offsets"])
        shape = tuple(map(_whole, entry["shape"]))
        bytes_each = ELEMENT_BYTES[entry["dtype"]]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{file}: tensor {name[:80]!r} has an unknown dtype or a bad entry"
        ) from None
    if not 0 < _bytes_of(name) <= _MAX_NAME_BYTES or min(shape, default=0) < 0:
        raise UserError(f"{file}: tensor {name[:80]!r} has a bad name or shape")
    if len(shape) > _MAX_AXES or end - begin != math.prod(shape) * bytes_each:
        raise UserError(
            f"{file}: tensor {name!r} of shape {_brief(shape)} does not fit its "
            f"{str(end - begin)[:40]} bytes"
        )
    return TensorInfo(entry["dtype"], shape, file.name), (begin, end)


def _check_spans(spans: list[tuple[int, int]], start: int, size: int, file: Path) -> None:
    """Refuse tensors that overlap, leave a hole, or do not end where the file does."""
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise UserError(
                f"{file}: its tensors overlap or leave a hole at byte {start + position}"
            )
        position = end
    if start + position != size:
        raise UserError(f"{file}: truncated: expected {start + position} bytes but it has {size}")


def _check_metadata(metadata: Any, file: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError(f"{file}: expected __metadata__ to be a mapping of texts")


def _bytes_of(name: str) -> int:
    """Return its length in UTF-8; 0 for a name that has no UTF-8, or holds what no name does."""
    return len(name.encode("utf-8", "replace")) if name.isprintable() else 0


def _brief(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 80 else text[:77] + "..."


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value
