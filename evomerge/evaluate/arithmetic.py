"""Finds out whether a processor computes in a model's dtype as fast as in float32.

Processors without instructions for bfloat16 or float16 emulate them: on an AVX2 machine a forward
pass of SmolLM2-135M in bfloat16 took 6.5 times as long as in float32, a backward pass 15 times.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn.functional import linear

LEAST_PARAMETERS = 20_000_000  # of smaller models nobody waits for the arithmetic
_ROWS, _INPUTS, _OUTPUTS = 128, 512, 1024
_REPEATS = 3
_MUCH_SLOWER = 2.0


def slow_arithmetic(model: Any) -> list[str]:
    """Return a warning where a model on the CPU would be faster in float32, else nothing.

    The CPU time of one product of 128 by 512 and 512 by 1,024 numbers is measured in either dtype.
    """
    dtype = model.dtype
    if (
        model.device.type != "cpu"
        or dtype not in (torch.bfloat16, torch.float16)
        or sum(p.numel() for p in model.parameters()) < LEAST_PARAMETERS
    ):
        return []
    ratio = _seconds(dtype) / _seconds(torch.float32)
    if ratio < _MUCH_SLOWER:
        return []
    name = str(dtype).removeprefix("torch.")
    return [
        f"a product of matrices takes this processor {ratio:.0f} times as long in {name} as in "
        f"float32: set evaluate.dtype: float32, which scores the same {name} weights, and takes "
        "twice the memory for them"
    ]


def _seconds(dtype: torch.dtype) -> float:
    inputs, weights = torch.ones(_ROWS, _INPUTS, dtype=dtype), torch.ones(_OUTPUTS, _INPUTS)
    weights = weights.to(dtype)
    times = []
    with torch.inference_mode():
        for _ in range(_REPEATS + 1):  # the first one warms up
            began = time.process_time()
            linear(inputs, weights)
            times.append(time.process_time() - began)
    return max(min(times[1:]), 1e-6)
