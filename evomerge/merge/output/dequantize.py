"""Writes a model whose weights are FP8 or int8 as the floats that they stand for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoint.architecture import with_dtype
from evomerge.checkpoint.dtypes import CODES, ELEMENT_BYTES
from evomerge.checkpoint.files.companions import ALL, copy_companions
from evomerge.checkpoint.files.remote_code import copy_code
from evomerge.checkpoint.files.shards import write_shards
from evomerge.checkpoint.loaded.quantized import (
    dequantized,
    is_left_over,
    method_of,
    quantized_names,
    scaled_weights,
    without_quantization,
)
from evomerge.checkpoint.opening import open_stored
from evomerge.core.atomic import atomic_folder
from evomerge.core.errors import UserError


def dequantize(model: str | Path, out: str | Path, dtype: str = "bfloat16") -> int:
    """Write a quantized model in float; every other file goes along.

    Args:
        model: A folder or hub id, whose weights are FP8 or int8 with scales beside them.
        out: The folder to make.
        dtype: Of the weights that were quantized; the others stay as they are.

    Returns:
        How many tensors were quantized.

    Raises:
        UserError: None is, or one is packed in another way.
    """
    folder, config, files = open_stored(model)
    stored = files.tensors
    scaled = {entry.weight: entry for entry in scaled_weights(stored)}
    unread = [name for name in quantized_names(stored) if name not in scaled]
    if unread:
        raise UserError(
            f"{folder}: {unread[0]} is {stored[unread[0]].dtype} "
            f"({method_of(config) or 'no quantization_config'}) and has no scales beside it; only "
            "FP8 and int8 with scales are read"
        )
    if not scaled:
        raise UserError(f"{folder}: expected FP8 or int8 weights, but none is quantized")
    zero = next((name for name in stored if name.endswith("zero_point")), None)
    if zero is not None:
        raise UserError(f"{folder}: {zero}: weights with zero points are not read")
    names = [name for name in stored if not is_left_over(name)]
    code = CODES[dtype]
    sizes = {
        name: math.prod(stored[name].shape)
        * ELEMENT_BYTES[code if name in scaled else stored[name].dtype]
        for name in names
    }

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name in names:
            if name in scaled:
                tensor = dequantized(scaled[name], files.tensor, config)
                yield name, tensor.to(getattr(torch, dtype))
            else:
                yield name, files.tensor(name)

    result = with_dtype(without_quantization(config), dtype)
    with atomic_folder(Path(out)) as target:
        copy_code(folder, target)
        copy_companions(folder, target, ALL)
        write_shards(target, tensors(), sizes)
        (target / "config.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return len(scaled)
