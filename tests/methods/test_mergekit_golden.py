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

from evomerge.methods import CounterRandom, get, registered

GOLDEN = Path(__file__).with_name("golden_mergekit_0_1_5.safetensors")
MAKE_GOLDEN = Path(__file__).parents[1] / "peer" / "make_golden.py"

# mergekit adds models up with torch's reduction over a stack. From five models on, that takes the
# last few elements of a tensor in another order than the rest; we take every element in the order
# of the models. (call number: elements that differ) as counted when the file was made, on x86-64.
OTHER_ORDER = {122: 1, 326: 2, 358: 2, 381: 1, 441: 1}


# Iterated norms and arccosines: processors differ in their last bits, and so does mergekit on them.
ITERATED = {"karcher"}

# Methods that choose whole elements, and the part of a large tensor that mergekit may choose
# otherwise: of equal magnitudes at a threshold; by quartiles of a random sample of a million.
OTHER_CHOICE = {"breadcrumbs": 1e-5, "breadcrumbs_ties": 1e-5, "sce": 1e-5, "arcee_fusion": 1e-3}


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
            base = file.get_tensor(f"base.{call['shape']}") if call["base"] else None
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


def test_every_merge_is_mergekits_to_the_bit_but_for_iterations_and_five_summands():
    with safe_open(GOLDEN, framework="pt") as file:
        different = compare(file)
    for call, ours, theirs in different.values():
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=str(call))
    different = {n: d for n, d in different.items() if d[0]["method"] not in ITERATED}
    if fused_multiply_add():
        counts = {n: int((ours != theirs).sum()) for n, (_, ours, theirs) in different.items()}
        assert counts == OTHER_ORDER
        for call, ours, theirs in different.values():
            assert call["models"] >= 5
            torch.testing.assert_close(ours, theirs, rtol=2.0**-22, atol=0)


def test_the_golden_file_covers_every_method_of_mergekit_with_five_settings():
    with safe_open(GOLDEN, framework="pt") as file:
        calls = json.loads(file.metadata()["calls"])
        assert file.metadata()["mergekit"] == "0.1.5"
    settings = {}
    for call in calls:
        setting = json.dumps([call["models"], call["parameters"], call["base"]])
        settings.setdefault(call["method"], set()).add(setting)
    assert set(settings) == {method.name for method in registered() if method.in_mergekit}
    assert len(settings) == 20
    for name, known in settings.items():
        method = get(name)
        alone = not method.parameters and method.min_models == method.max_models
        assert len(known) >= (1 if alone else 5), name
        assert {json.loads(setting)[2] for setting in known} == (
            {True, False} if method.base_optional else {method.takes_base}
        )


@pytest.mark.parametrize("method", ["dare_linear", "della_linear"])
def test_our_masks_have_the_statistics_of_mergekits(method):
    with safe_open(GOLDEN, framework="pt") as file:
        data = json.loads(file.metadata()["statistics"])
    repetitions, shape, density = data["repetitions"], data["shape"], data["density"]
    theirs = data["methods"][method]
    delta = 1 + torch.arange(shape[0] * shape[1]).reshape(shape).float() / 1000
    rows, scales, columns = [], [], torch.zeros(shape[1])
    for seed in range(repetitions):
        random = CounterRandom(seed, "layer")
        parameters = {"weight": [1.0], "density": [density]}
        merged = get(method).apply(torch.zeros(shape), [delta], parameters, random)
        mask = (merged != 0).float()
        rows.append(float(mask.mean()))
        scales.append(float((merged / delta).max()))
        columns += mask.mean(dim=0) / repetitions
    for name, numbers in (("kept", torch.tensor(rows)), ("scale", torch.tensor(scales))):
        std = theirs[f"{name}_std"]
        # four standard errors of a difference of means, and of a standard deviation
        assert (
            abs(float(numbers.mean()) - theirs[f"{name}_mean"]) < 4 * std * (2 / repetitions) ** 0.5
        )
        assert float(numbers.std()) == pytest.approx(std, rel=4 / repetitions**0.5)
    # a column is kept as often as theirs: 0.5 bounds the deviation of one element
    error = 4 * 0.5 * (2 / (repetitions * shape[0])) ** 0.5
    torch.testing.assert_close(columns, torch.tensor(theirs["kept_by_column"]), rtol=0, atol=error)


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
        unequal = int((ours != theirs).sum())
        if call["method"] in OTHER_CHOICE:
            assert unequal <= OTHER_CHOICE[call["method"]] * ours.numel()
        else:
            assert call["models"] >= 5
            assert unequal < 20
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
