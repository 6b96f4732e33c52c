"""Parents that stay in main memory: the device holds the inputs of one tensor at a time."""

from __future__ import annotations

import gc
import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from evomerge.merge.build import fill, live_tensors, tensors
from evomerge.merge.digest import digest
from evomerge.merge.parents import parents as module
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from tests.limited_device import Device
from tests.merge.merging import load_live, recipe_of


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device(math.inf)
    monkeypatch.setattr(module, "copied", made.copied)
    return made


def sizes(parents: Parents) -> Counter[str]:
    """The bytes of each tensor in all parents together."""
    total: Counter[str] = Counter()
    for checkpoint in parents.checkpoints.values():
        total.update({name: checkpoint.tensor(name).nbytes for name in checkpoint.tensors})
    return total


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "della"])
def test_a_device_with_room_for_one_tensor_of_each_parent_merges_them_all_the_same(
    method: str, family: dict[str, Path], device: Device
) -> None:
    recipe = recipe_of(family, method)
    parents = Parents(recipe.model_names)
    expected = dict(tensors(plan(recipe, parents.checkpoints), parents))
    everything, largest = device.peak, max(sizes(parents).values())
    assert device.held == everything, "they stay"
    del parents
    gc.collect()
    assert device.held == 0

    device.limit, device.peak = 2 * largest, 0  # the first is asked for twice
    parents = Parents(recipe.model_names)
    parents.stay = False
    built = plan(recipe, parents.checkpoints)
    for name, tensor in tensors(built, parents):
        assert torch.equal(tensor, expected[name]), name
    assert device.peak < everything
    assert device.held == 0


def test_a_live_model_is_filled_twice_and_nothing_of_the_parents_stays(
    family: dict[str, Path], device: Device
) -> None:
    recipe = recipe_of(family, "ties")
    parents = Parents(recipe.model_names)
    parents.stay = False
    parents.check(recipe)
    built, live = plan(recipe, parents.checkpoints), load_live(family["base"])
    device.limit = max(sizes(parents).values())  # the inputs of one tensor, once
    digests = []
    for _ in range(2):
        fill(live, built, parents)
        digests.append(digest(live_tensors(live, built).items()))
    assert device.held == 0
    device.limit = math.inf
    assert digests == [digest(tensors(built, Parents(recipe.model_names)))] * 2


def test_merges_within_recipes_keep_to_it(family: dict[str, Path]) -> None:
    parents = Parents([str(family["base"])])
    parents.stay = False
    assert not parents.beside(parents.opened, ()).stay
