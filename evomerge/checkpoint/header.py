"""What a safetensors file holds, checked against its size before anything parses its tensors."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_TENSORS = 100_000


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


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value
