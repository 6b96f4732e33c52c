"""What candidates have in common is recalled within a budget, and never for another version."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evomerge.merge.parents.memo import Memo
from evomerge.recipe.recipe import Recipe


def recipe(seed: int) -> Recipe:
    return Recipe.from_dict({"merge_method": "linear", "models": ["a", "b"], "seed": seed})


class Made:
    """Counts what is made."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Tensor:
        self.count += 1
        return torch.full((4,), float(self.count))


def asked(memo: Memo, seed: int, made: Made, version: Any = (), inputs: str = "x") -> float:
    return float(memo.of(recipe(seed), inputs)("product", version, made)[0])


def test_nothing_is_kept_for_the_two_anchors_and_from_the_third_recipe_on_all_is() -> None:
    memo, made = Memo(1 << 20), Made()
    assert [asked(memo, seed, made) for seed in (1, 2, 1, 2)] == [1, 2, 3, 4]
    assert [asked(memo, seed, made) for seed in (3, 4, 1)] == [5, 5, 5]
    assert asked(memo, 5, made, inputs="y") == 6  # other models, rows or dtype
    assert memo.size == 16  # asked for once
    assert asked(memo, 6, made, inputs="y") == 7
    assert asked(memo, 7, made, inputs="y") == 7
    assert memo.size == 32


def test_another_version_is_made_anew_and_takes_the_place_of_the_last() -> None:
    memo, made = Memo(1 << 20), Made()
    for seed in (1, 2, 3):
        asked(memo, seed, made, version=1)
    assert asked(memo, 4, made, version=1) == 3
    assert asked(memo, 4, made, version=2) == 4
    assert memo.size == 0
    assert [asked(memo, 4, made, version=2) for _ in range(2)] == [5, 5]
    assert asked(memo, 4, made, version=1) == 6  # was forgotten


def test_what_came_first_stays_within_the_budget_and_the_rest_is_made_anew() -> None:
    memo, made = Memo(20), Made()
    for seed in (1, 2, 3):
        for inputs in "xy":
            asked(memo, seed, made, inputs=inputs)
    assert (memo.size, made.count) == (16, 6)
    asked(memo, 4, made, inputs="x")
    assert made.count == 6
    asked(memo, 4, made, inputs="y")
    assert (memo.size, made.count) == (16, 7)
