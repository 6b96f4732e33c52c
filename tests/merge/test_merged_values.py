"""What comes out of a merge, against float64 and tensor by tensor."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evomerge.core.errors import UserError
from evomerge.merge.build import build, tensors
from evomerge.merge.digest import digest
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from tests.merge.merging import recipe_of
from tests.models import load, make_family


def float64(folder):
    return {name: tensor.double().numpy() for name, tensor in load(folder).items()}


def close(ours, reference):
    """Whether float32 agrees with float64 to a few of its last bits, tensor by tensor."""
    assert ours.keys() == reference.keys()
    for name, expected in reference.items():
        np.testing.assert_allclose(ours[name].numpy(), expected, rtol=3e-6, atol=3e-7, err_msg=name)


def test_task_arithmetic_is_base_plus_weighted_deltas(llama, tmp_path):
    recipe = recipe_of(llama, "task_arithmetic", [0.2, 0.5, 1.0], parameters={"lambda": 0.7})
    build(recipe, tmp_path / "out")
    base, a, b = (float64(llama[name]) for name in ("base", "a", "b"))
    reference = {}
    for name, origin in base.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        weight = [0.2, 0.5, 1.0][layer]  # as many knots as layers; the first outside the stack
        reference[name] = origin + 0.7 * weight * ((a[name] - origin) + (b[name] - origin))
    close(load(tmp_path / "out"), reference)


def test_ties_is_trim_elect_and_disjoint_mean(llama, tmp_path):
    recipe = recipe_of(llama, "ties", 0.6, parameters={"lambda": 1.2})
    build(recipe, tmp_path / "out")
    base, a, b = (float64(llama[name]) for name in ("base", "a", "b"))
    reference = {}
    for name, origin in base.items():
        weighted = []
        for model in (a, b):
            delta = np.float32(model[name]) - np.float32(origin)  # what is trimmed is float32
            magnitude = np.abs(delta).ravel()
            largest = np.argsort(-magnitude, kind="stable")[: int(0.5 * magnitude.size)]
            mask = np.zeros(magnitude.size)
            mask[largest] = 1
            weighted.append(0.6 * delta.astype(float) * mask.reshape(delta.shape))
        elected = np.where(weighted[0] + weighted[1] >= 0, 1, -1)
        agree = [np.sign(vote) == elected for vote in weighted]
        total = sum(vote * yes for vote, yes in zip(weighted, agree, strict=True))
        share = sum(0.6 * yes for yes in agree)
        reference[name] = origin + 1.2 * total / np.where(share == 0, 1, share)
    close(load(tmp_path / "out"), reference)


@pytest.mark.parametrize(
    ("block", "touched"),
    [
        ({"components": ["attention"]}, lambda n: "self_attn" in n),
        (
            {"components": ["mlp"], "layers": [1, 3]},
            lambda n: ".mlp." in n and ".layers.0." not in n,
        ),
        ({"components": "norm"}, lambda n: "norm" in n),
        ({"components": ["embedding", "head"]}, lambda n: "embed" in n or "lm_head" in n),
        ({"layers": [0, 1]}, lambda n: ".layers.0." in n),
        ({}, lambda n: True),  # noqa: ARG005 - every tensor
    ],
)
def test_a_block_touches_its_own_tensors_and_no_others(llama, block, touched):
    plain, blocked = (
        recipe_of(llama),
        recipe_of(
            llama,
            blocks=[{**block, "merge_method": "task_arithmetic", "parameters": {"lambda": 0.9}}],
        ),
    )
    parents = Parents(plain.model_names)
    first = dict(tensors(plan(plain, parents.checkpoints), parents))
    second = dict(tensors(plan(blocked, parents.checkpoints), parents))
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {name for name in first if touched(name)}


def test_random_masks_depend_on_the_seed_and_the_name_and_on_nothing_else(llama):
    recipe = recipe_of(llama, "dare_linear", seed=3)
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    forward = dict(tensors(built, parents))
    torch.manual_seed(99)
    shuffled = type(built)(built.recipe, built.jobs[::-1], built.config)
    again = dict(tensors(shuffled, Parents(recipe.model_names)))
    assert digest(forward.items()) == digest(again.items())
    other = dict(
        tensors(plan(recipe_of(llama, "dare_linear", seed=4), parents.checkpoints), parents)
    )
    assert all(not torch.equal(forward[name], other[name]) for name in forward)
    deltas = {n: forward[n] - parents.checkpoints[llama["base"]].tensor(n) for n in forward}
    masks = [deltas[f"model.layers.{n}.mlp.up_proj.weight"] != 0 for n in range(3)]
    assert all(not torch.equal(one, two) for one, two in pairwise(masks))


def test_bfloat16_parents_are_merged_in_float32_and_rounded_once(tmp_path):
    family = make_family(tmp_path, dtype="bfloat16")
    recipe = recipe_of(family, "task_arithmetic", 0.37, out_dtype="bfloat16")
    build(recipe, tmp_path / "out")
    base, a, b, out = (load(folder) for folder in (*family.values(), tmp_path / "out"))
    for name, origin in base.items():
        assert out[name].dtype == torch.bfloat16
        origin = origin.double()
        exact = origin + 0.37 * (a[name].double() - origin) + 0.37 * (b[name].double() - origin)
        rounded = exact.to(torch.bfloat16)
        # float32 rounds before the one cast: where the two meet half way, one unit may differ
        differ = out[name] != rounded
        assert float(differ.double().mean()) < 0.01
        assert torch.allclose(out[name].float(), rounded.float(), rtol=2**-7, atol=0)


def test_a_recipe_in_float64_is_computed_and_written_in_it(llama, tmp_path):
    build(recipe_of(llama, "task_arithmetic", 0.37, dtype="float64"), tmp_path / "out")
    base, a, b = (float64(llama[name]) for name in ("base", "a", "b"))
    for name, tensor in load(tmp_path / "out").items():
        assert tensor.dtype == torch.float64
        expected = base[name] + 0.37 * (a[name] - base[name]) + 0.37 * (b[name] - base[name])
        np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-14, atol=1e-15, err_msg=name)


def test_a_method_that_counts_float32_magnitudes_refuses_float64(llama, tmp_path):
    with pytest.raises(UserError, match="ties_global: it computes in float32; set dtype to"):
        build(recipe_of(llama, "ties_global", dtype="float64"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parents_may_be_stored_in_different_dtypes(llama, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(llama["b"], folder)
    half = {name: tensor.bfloat16() for name, tensor in load(folder).items()}
    save_file(half, folder / "model.safetensors")
    build(recipe_of({**llama, "b": str(folder)}, "linear", 0.5), tmp_path / "out")
    base, a = load(llama["base"]), load(llama["a"])
    out = load(tmp_path / "out")
    for name in base:
        assert out[name].dtype == torch.float32
        expected = (a[name].double() + half[name].double()) / 2
        assert torch.allclose(out[name].double(), expected, rtol=1e-6, atol=1e-7)
