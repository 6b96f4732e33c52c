"""Every registered method in a whole merge; no method is named here."""

import pytest
import torch

from evomerge.merge.build import tensors
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.methods import CounterRandom, registered
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family


@pytest.fixture(scope="module", params=["float32 tied", "bfloat16", "float16"])
def family(request, tmp_path_factory):
    """A base and three models near it, stored in each dtype, one with tied embeddings."""
    dtype, _, tied = request.param.partition(" ")
    folder = tmp_path_factory.mktemp(dtype)
    return make_family(folder, names="abc", layers=2, dtype=dtype, tied=bool(tied))


def recipe_of(method, family):
    """As many models as the method takes up to three; by depth and by name where it can be."""
    count = max(method.min_models, min(3, method.max_models or 3))
    per_model, shared = {}, {}
    for parameter in method.parameters:
        if parameter.kind != "float" or not (parameter.required or parameter.per_model):
            continue
        low, high = parameter.low, parameter.high
        middle = low + 0.6 * (high - low)
        by_depth = [low + 0.4 * (high - low), middle]
        setting = [{"filter": "mlp", "value": by_depth}, {"value": middle}]
        (per_model if parameter.per_model else shared)[parameter.name] = setting
    models = [{"model": family[name], "parameters": per_model} for name in "abc"[:count]]
    document = {"merge_method": method.name, "models": models, "parameters": shared, "seed": 3}
    return Recipe.from_dict({**document, "base_model": family["base"]})


def value(parameter, name):
    """What a tensor's parameter is: 0.4 at the first layer's mlp, 0.6 at the last's, and elsewhere.

    mergekit's rule: a gradient runs from the first layer (0) to the last (1).
    """
    share = 0.4 if "layers.0.mlp" in name else 0.6
    return parameter.low + share * (parameter.high - parameter.low)


WITHOUT_DATA = [m for m in registered() if not m.needs_data]  # the others: tests/calibration


@pytest.mark.parametrize("method", WITHOUT_DATA, ids=lambda method: method.name)
def test_a_merge_is_the_method_on_float32_cast_once(method, family):
    recipe = recipe_of(method, family)
    parents = Parents(recipe.model_names)
    parents.check(recipe)
    planned = plan(recipe, parents.checkpoints)
    merged = dict(tensors(planned, parents))
    jobs = {job.name: job for job in planned.jobs}
    base, *models = [load(family["base"]), *(load(entry.model) for entry in recipe.models)]
    assert set(merged) == set(base)  # of tied embeddings one tensor
    settable = recipe.models[0].parameters.keys() | recipe.parameters.keys()
    for name, tensor in merged.items():
        parameters = {}
        for parameter in method.parameters:
            if parameter.name in settable:
                one = value(parameter, name)
                parameters[parameter.name] = [one] * len(models) if parameter.per_model else one
        random = CounterRandom(3, name) if method.stochastic else None
        inputs = [model[name].float() for model in models]
        more = {}
        if (
            "thresholds" in method.takes
        ):  # of whole models: what they are is tested beside the method
            more["thresholds"] = parents.thresholds(jobs[name], torch.float32)
        expected = method.apply(base[name].float(), inputs, parameters, random, more)
        assert tensor.dtype == base[name].dtype, name  # as recipes without dtypes write it
        assert torch.equal(tensor, expected.to(tensor.dtype)), name
