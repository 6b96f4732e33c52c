"""Finds quantized weights, which are no numbers to average: they are refused by name, or read.

FP8 and int8 tensors with scales beside them can be read as the floats that they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evomerge.checkpoint.files.header import TensorInfo
from evomerge.core.errors import UserError

FLOAT8 = ("F8_E4M3", "F8_E5M2")
_INT8 = "I8"
_BLOCK = (128, 128)  # of transformers' FineGrainedFP8Config
_PACKED = ("U8", "I32", "U32", "U16", "F4", "F8_E8M0", "F6_E2M3", "F6_E3M2")
# Endings that a quantizer gives the scales of NAME.weight.
_SCALES = ("weight_scale_inv", "weight_scale", "SCB")
_GONE = ("input_scale", "activation_scale", "input_scale_ub", "weight_format", "weight_shape")
_REMEDIES = {
    "gptq": "load it with GPTQModel and save it in float, or take the model that it was made from",
    "awq": "take the model that it was made from: packed weights have lost what a merge needs",
    "mxfp4": "load it with Mxfp4Config(dequantize=True) and save it, as transformers does",
    "bitsandbytes": "load it, call model.dequantize() and save it, or take what it was made from",
}


class Scaled(NamedTuple):
    """A quantized weight and the tensor of its scales."""

    weight: str
    scales: str


def check_float(folder: Path, config: Mapping[str, Any], stored: Mapping[str, TensorInfo]) -> None:
    """Refuse a model whose weights are quantized, naming method, tensor and remedy.

    Raises:
        UserError: They are.
    """
    method = method_of(config)
    names = quantized_names(stored)
    if not names:
        return  # a key that is true no longer: without it the result is what the weights are
    scaled = {entry.weight for entry in scaled_weights(stored)}
    by_scales = any(name in scaled or stored[name].dtype in FLOAT8 for name in names)
    if method is None and not by_scales:
        return  # whole numbers that belong to the model
    name = names[0]
    unread = [name for name in names if name not in scaled]
    remedy = _REMEDIES.get(method or "", "take the model that it was made from, in float")
    if not unread:
        remedy = f"write it in float first: evomerge dequantize {folder} OUT"
    raise UserError(
        f"{folder}: its weights are quantized ({method or 'no quantization_config'}: {name} is "
        f"{stored[name].dtype}), and a merge needs numbers to average; {remedy}"
    )


def method_of(config: Mapping[str, Any]) -> str | None:
    """The ``quant_method`` of a config, wherever it has one."""
    inner = config.get("text_config")
    for scope in (config, inner if isinstance(inner, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            settings = scope.get(key)
            if isinstance(settings, Mapping):
                return str(settings.get("quant_method") or settings.get("quant_type") or key)[:40]
    return None


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the same model in float."""
    gone = ("quantization_config", "compression_config")
    result = {key: value for key, value in config.items() if key not in gone}
    if isinstance(result.get("text_config"), Mapping):
        result["text_config"] = without_quantization(result["text_config"])
    return result


def quantized_names(stored: Mapping[str, TensorInfo]) -> list[str]:
    """Tensors that look quantized: 8-bit floats, and matrices of small or packed whole numbers."""
    return [
        name
        for name, info in stored.items()
        if info.dtype in FLOAT8 or (len(info.shape) in (2, 3) and info.dtype in (_INT8, *_PACKED))
    ]


def scaled_weights(stored: Mapping[str, TensorInfo]) -> list[Scaled]:
    """Weights in FP8 or int8 that have scales beside them."""
    scaled = []
    for name, info in stored.items():
        if info.dtype not in (*FLOAT8, _INT8):
            continue
        module, _, last = name.rpartition(".")
        for scale in _SCALES:
            beside = [f"{module}.{scale}", f"{name}_{scale.removeprefix('weight_')}"]
            scales = next((n for n in beside if n in stored and n != name), None)
            if scales is not None and (last == "weight" or scales.startswith(name)):
                scaled.append(Scaled(name, scales))
                break
    return scaled


def is_left_over(name: str) -> bool:
    """Return whether a tensor belongs to a quantized one and to nothing else."""
    return name.rpartition(".")[2] in (*_GONE, *_SCALES, "weight_zero_point")


def dequantized(scaled: Scaled, read: Callable[[str], Tensor], config: Mapping[str, Any]) -> Tensor:
    """The numbers that a quantized weight stands for, in float32.

    They are weight * scale: one scale for all, for each row, or for each block of the
    ``weight_block_size``; of bitsandbytes' int8 weight * SCB / 127.

    Raises:
        UserError: The scales fit in none of these ways, or there are zero points.
    """
    weight = read(scaled.weight).to(torch.float32)
    scales = read(scaled.scales).to(torch.float32)
    if scaled.scales.endswith("SCB"):
        return weight * scales[:, None] / 127
    if scales.numel() == 1:
        return weight * scales.reshape(())
    rows, columns = weight.shape[-2], weight.shape[-1]
    if scales.numel() == math.prod(weight.shape[:-1]):
        return weight * scales.reshape(*weight.shape[:-1], 1)
    settings = config.get("quantization_config") or {}
    block = settings.get("weight_block_size") or _BLOCK
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    if tuple(scales.shape[-2:]) != grid or scales.shape[:-2] != weight.shape[:-2]:
        raise UserError(
            f"{scaled.scales}: expected one scale, one a row, or {list(grid)} for blocks of "
            f"{list(block)}, but it has shape {list(scales.shape)}"
        )
    spread = scales.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return weight * spread[..., :rows, :columns]
