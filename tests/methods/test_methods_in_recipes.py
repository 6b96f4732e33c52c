"""Methods that do without a base, and those that mergekit does not have, in whole recipes."""

import pytest
import torch

from evomerge import methods
from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.methods import registered
from evomerge.recipe.mergekit.to_mergekit import to_mergekit
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"))


def recipe(method, family, base=True, **parameters):
    spec = methods.get(method)
    needed = {p.name: (p.low + p.high) / 2 for p in spec.parameters if p.required}
    return Recipe.from_dict(
        {
            "merge_method": method,
            "models": [family["a"], family["b"]][: spec.max_models or 2],
            "parameters": {**needed, **parameters},
            **({"base_model": family["base"]} if base else {}),
        }
    )


def whole_thresholds(spec, base, models):
    """The least magnitude that the default density keeps of each model's changes, by sorting."""
    merged_tensors = []
    for model in models:
        flat = torch.cat([(model[name] - base[name]).abs().reshape(-1) for name in base])
        keep = int(spec.parameter("density").default * flat.numel())
        merged_tensors.append(float(flat.sort(descending=True).values[keep - 1]))
    return merged_tensors


WITHOUT_DATA = [m for m in registered() if not m.needs_data]  # the others: tests/calibration


@pytest.mark.parametrize("spec", WITHOUT_DATA, ids=lambda spec: spec.name)
@pytest.mark.parametrize("with_base", [True, False])
def test_a_recipe_has_a_base_where_its_method_needs_one(spec, with_base, family, tmp_path):
    if not with_base and spec.takes_base and not spec.base_optional:
        with pytest.raises(UserError, match=f"{spec.name} needs a base_model"):
            recipe(spec.name, family, base=False)
        return
    if spec.stochastic:
        pytest.skip("a recipe's masks are those of its seed")
    made = recipe(spec.name, family, with_base)
    build(made, tmp_path / "out")
    base = load(family["base"])
    models = [load(entry.model) for entry in made.models]
    for name, tensor in load(tmp_path / "out").items():
        expected = spec.apply(
            base[name] if with_base else None,
            [model[name] for model in models],
            dict(made.parameters),
            given={"thresholds": whole_thresholds(spec, base, models)}
            if "thresholds" in spec.takes
            else None,
        )
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize(
    "spec", [m for m in WITHOUT_DATA if m.base_optional], ids=lambda spec: spec.name
)
def test_without_a_base_mergekit_is_given_none_to_merge_around(spec, family):
    names = list(open_model(family["a"]).tensors)
    blocks = [{"components": "mlp", "parameters": {"weight": 0.3}}]
    for with_base in (True, False):
        plain = recipe(spec.name, family, with_base)
        cut = Recipe.from_dict({**plain.to_dict(), "blocks": blocks})
        for one in (plain, cut):
            (document,) = to_mergekit(one, names)
            assert ("base_model" in document.content) is with_base
            assert ("config and tokenizer" in str(document.notes)) is not with_base
            assert (family["base"] in str(document.content)) is with_base


def test_a_method_that_mergekit_does_not_have_is_not_exported(family):
    names = list(open_model(family["a"]).tensors)
    for spec in registered():
        made = recipe(spec.name, family)
        if spec.in_mergekit:
            assert to_mergekit(made, names)[-1].content["merge_method"] == spec.name
        else:
            with pytest.raises(UserError, match=f"{spec.name}: mergekit 0.1.5 has no such method"):
                to_mergekit(made, names)


@pytest.mark.parametrize(
    ("method", "parameter", "value"),
    [
        ("ties", "consensus", "count"),
        ("ties", "aggregate", "sum"),
        ("ties", "aggregate", "max"),
        ("ties", "zero_sign", "majority"),
        ("della", "rescale", "inverse"),
        ("sce", "select_applies_to", "weights"),
    ],
)
def test_a_value_that_mergekit_does_not_have_is_not_exported(method, parameter, value, family):
    names = list(open_model(family["a"]).tensors)
    assert to_mergekit(recipe(method, family), names)
    with pytest.raises(UserError, match=f"{parameter}: {value} does not exist in mergekit"):
        to_mergekit(recipe(method, family, **{parameter: value}), names)
