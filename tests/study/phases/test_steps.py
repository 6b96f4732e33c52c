"""First steps by the parents' changes: by hand, on real models, and as optimizers take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from evomerge.core.errors import UserError
from evomerge.merge.kernels.norms import squared_norms
from evomerge.merge.parents.nested import open_parents
from evomerge.optimizers import create, names
from evomerge.recipe.space.dimension import Dimension
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig
from evomerge.study.phases.search import start_optimizer
from evomerge.study.phases.steps import steps_of
from tests.models import make_family

Q = "model.layers.{}.self_attn.q_proj.weight"


def space_of(**weight: Any) -> SearchSpace:
    models = [{"model": m, "parameters": {"weight": dict(weight)}} for m in "ab"]
    document = {"merge_method": "ties", "base_model": "base", "models": models}
    return SearchSpace.from_dict({**document, "parameters": {"density": "search"}})


def test_steps_by_hand() -> None:
    # a changes by .1 and .3 of the base's two tensors, b by .1 of both: r_a² = (1 + 9) / 200, so
    # r_a = sqrt(.05), r_b = .1; steps go with their roots, .05^.25 : .1^.5, mean square 1.
    norms = {
        "a": {Q.format(0): (1.0, 100.0), Q.format(1): (9.0, 100.0)},
        "b": {Q.format(0): (1.0, 100.0), Q.format(1): (1.0, 100.0)},
    }
    space = space_of(low=0, high=1)
    roots = np.array([0.05**0.25, 0.1**0.5])
    expected = roots / np.sqrt((roots**2).mean())
    assert steps_of(space, norms, 2) == pytest.approx([*expected, 1.0], abs=1e-3)
    # Twice the range on both changes nothing; knots read a layer each: .1, .3, .1, .1.
    assert steps_of(space_of(low=0, high=2), norms, 2) == steps_of(space, norms, 2)
    knots = steps_of(space_of(low=0, high=1, knots=2), norms, 2)
    roots = np.sqrt([0.1, 0.3, 0.1, 0.1])
    expected = roots / np.sqrt((roots**2).mean())
    assert knots == pytest.approx([*expected, 1.0], abs=1e-3)


def test_a_change_a_thousand_times_larger_does_not_make_a_step_a_thousand_times_longer() -> None:
    norms = {"a": {Q.format(0): (1e6, 1.0)}, "b": {Q.format(0): (1e-6, 1.0)}}
    a, b, _ = steps_of(space_of(low=0, high=1), norms, 1)
    assert a / b == pytest.approx(2.5**2, rel=1e-2)
    assert (a**2 + b**2) / 2 == pytest.approx(1, abs=2e-3)
    assert steps_of(space_of(low=0, high=1), {"a": {}, "b": {}}, 1) == [1.0, 1.0, 1.0]


def test_norms_of_real_models_are_those_that_numpy_finds(tmp_path: Path) -> None:
    family = make_family(tmp_path)
    base, a = (Path(family[name]) for name in ("base", "a"))
    parents = open_parents([str(base), str(a)], "cpu")
    found = squared_norms(parents, str(base), [str(a)])[str(a)]
    before, after = (load_file(folder / "model.safetensors") for folder in (base, a))
    assert set(found) == set(before)
    for name, (delta, size) in found.items():
        x, y = (held[name].astype(np.float64) for held in (before, after))
        assert delta == pytest.approx(((y - x) ** 2).sum())
        assert size == pytest.approx((x**2).sum())


@pytest.mark.parametrize("name", [n for n in names() if create(n).takes_steps])
def test_an_optimizer_s_first_steps_are_as_long_as_the_dimensions_say(name: str) -> None:
    optimizer = create(name, population=200, sigma=0.02)
    optimizer.start([Dimension("a"), Dimension("b", step=4.0), Dimension("c", step=0.25)], 0)
    spread = np.array(optimizer.ask()[1:]).std(axis=0)
    assert spread[1] / spread[0] == pytest.approx(4, rel=0.2)
    assert spread[2] / spread[0] == pytest.approx(0.25, rel=0.2)
    assert spread[0] == pytest.approx(0.02, rel=0.2)


def test_an_optimizer_that_does_not_step_refuses_them(tmp_path: Path) -> None:
    document = {"base_model": "base", "models": ["a", "b"], "space": "global_linear"}
    document["evaluate"] = {"tasks": [{"name": "arc_easy"}]}
    document["search"] = {"optimizer": "tpe", "steps": "deltas"}
    config = StudyConfig.from_dict(document, tmp_path)
    space = SearchSpace.from_yaml("global_linear").bind("base", ["a", "b"])
    with pytest.raises(UserError, match=r"search.steps: deltas is for optimizers that step"):
        start_optimizer(config, space, None)
