"""Our merges against mergekit's own, bit for bit, from a file that mergekit wrote.

`golden_mergekit_0_1_5.safetensors` is what `tests/peer/make_golden.py` makes under mergekit's
interpreter; it says with which versions and when.
"""

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from evomerge.methods import CounterRandom, get

GOLDEN = Path(__file__).with_name("golden_mergekit_0_1_5.safetensors")
MAKE_GOLDEN = Path(__file__).parents[1] / "peer" / "make_golden.py"

# mergekit adds models up with torch's reduction over a stack. From five models on, that takes the
# last few elements of a tensor in another order than the rest; we take every element in the order
# of the models. (call number: elements that differ) as counted when the file was made, on x86-64.
OTHER_ORDER = {57: 1, 141: 2, 191: 1}


class GivenMasks(CounterRandom):
    """Numbers below any density where the mask is set, and above any where it isn't."""

    def __init__(self, masks):
        super().__init__(seed=0, name="given")
        self.masks = masks

    def uniform(self, model_index, shape, *, start=0, device=None):  # noqa: ARG002
        return torch.where(self.masks[model_index].bool(), 0.0, 1.0 - 2.0**-24)


def compare(file):
    """The calls where an element differs from mergekit's: {number: (call, ours, theirs)}."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the file was made: more threads reduce in another order
    different = {}
    try:
        for number, call in enumerate(json.loads(file.metadata()["calls"])):
            base = file.get_tensor(f"base.{call['shape']}")
            numbers = range(call["models"])
            models = [file.get_tensor(f"model.{i}.{call['shape']}") for i in numbers]
            masks = [file.get_tensor(f"mask.{i}.{call['shape']}") for i in numbers]
            method = get(call["method"])
            ours = method.apply(base, models, call["parameters"], GivenMasks(masks))
            theirs = file.get_tensor(call["out"])
            if not torch.equal(ours.view(torch.int32), theirs.view(torch.int32)):
                different[number] = (call, ours, theirs)
    finally:
        torch.set_num_threads(threads)
    return different


def fused_multiply_add():
    """Whether torch's kernels fuse here as where the file was made; else last bits may differ."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def test_every_merge_is_mergekits_to_the_bit_but_for_the_order_of_five_summands():
    with safe_open(GOLDEN, framework="pt") as file:
        different = compare(file)
    for call, ours, theirs in different.values():
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=str(call))
    if fused_multiply_add():
        counts = {n: int((ours != theirs).sum()) for n, (_, ours, theirs) in different.items()}
        assert counts == OTHER_ORDER
        for call, ours, theirs in different.values():
            assert call["models"] >= 5
            torch.testing.assert_close(ours, theirs, rtol=2.0**-23, atol=0)


def test_the_golden_file_covers_every_method_with_four_settings():
    with safe_open(GOLDEN, framework="pt") as file:
        calls = json.loads(file.metadata()["calls"])
        assert file.metadata()["mergekit"] == "0.1.5"
    settings = {}
    for call in calls:
        settings.setdefault(call["method"], set()).add(
            json.dumps([call["models"], call["parameters"]])
        )
    assert len(settings) == 8
    assert min(len(known) for known in settings.values()) >= 4


def test_our_masks_have_the_statistics_of_mergekits():
    with safe_open(GOLDEN, framework="pt") as file:
        theirs = json.loads(file.metadata()["statistics"])
    repetitions, shape, density = theirs["repetitions"], theirs["shape"], theirs["density"]
    kept, values = [], []
    for seed in range(repetitions):
        random = CounterRandom(seed, "layer")
        parameters = {"weight": [1.0], "density": [density]}
        merged = get("dare_linear").apply(
            torch.zeros(shape), [torch.ones(shape)], parameters, random
        )
        kept.append(float((merged != 0).float().mean()))
        values.append(float(merged.max()))
    for name, numbers in (("kept", torch.tensor(kept)), ("value", torch.tensor(values))):
        std = theirs[f"{name}_std"]
        # four standard errors of a difference of means, and of a standard deviation
        assert (
            abs(float(numbers.mean()) - theirs[f"{name}_mean"]) < 4 * std * (2 / repetitions) ** 0.5
        )
        assert float(numbers.std()) == pytest.approx(std, rel=4 / repetitions**0.5)


@pytest.mark.peer
def test_large_tensors_merged_by_mergekit_now_are_ours_to_the_bit(tmp_path):
    python = os.environ.get("MERGEKIT_PYTHON")
    if not python:
        pytest.skip("MERGEKIT_PYTHON names no interpreter that has mergekit")
    out = tmp_path / "fresh.safetensors"
    shapes = "1300x1003,576x192,1025"  # the first is beyond slerp's block of 2**20
    subprocess.run([python, MAKE_GOLDEN, out, "--shapes", shapes], check=True)
    with safe_open(out, framework="pt") as file:
        different = compare(file)
    for call, ours, theirs in different.values():
        assert call["models"] >= 5
        assert int((ours != theirs).sum()) < 20
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
