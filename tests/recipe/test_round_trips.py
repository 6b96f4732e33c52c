"""Space, point, recipe, YAML, recipe: nothing is lost on the way."""

import json
import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge import methods
from evomerge.core import yaml_file
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.space import SearchSpace

# names that YAML would take for something else, and any other
NAMES = st.sampled_from(
    ["1e3", "7E5", ".5", "yes", "null", "~", "2024-01-01", "0x1F", "-"]
) | st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda name: name != "search" and not name.startswith("*")
)
FILTERS = st.sampled_from(["mlp", "self_attn", "layers.1.", "норм", "a: b", "#", "yes", "1e3"])


def numbers(parameter):
    low = -1e9 if parameter.valid_low is None else parameter.valid_low
    high = 1e9 if parameter.valid_high is None else parameter.valid_high
    whole = st.integers(math.ceil(low), math.floor(high))
    return whole if parameter.kind == "int" else st.floats(low, high) | whole


def values(parameter):
    """Settings of a parameter: a value, a gradient, filters, or a hole."""
    if parameter.kind == "int":
        one, hole = numbers(parameter), st.just("search")
    elif parameter.kind == "float":
        one = numbers(parameter)
        low = -10.0 if parameter.valid_low is None else parameter.valid_low
        ends = st.lists(st.floats(low, 10.0), min_size=2, max_size=2).map(sorted)
        if parameter.valid_high is not None:
            ends = ends.map(lambda pair: [min(end, parameter.valid_high) for end in pair])
        spans = st.tuples(ends, st.none() | st.integers(1, 4)).map(
            lambda drawn: {
                "low": drawn[0][0],
                "high": drawn[0][1],
                **({} if drawn[1] is None else {"knots": drawn[1]}),
            }
        )
        hole = st.just("search") | spans
    else:
        one = st.sampled_from(parameter.choices)
        hole = st.just("search")
    gradient = st.lists(one, min_size=1, max_size=4)
    case = st.fixed_dictionaries({"value": one | gradient | hole}, optional={"filter": FILTERS})
    return one | gradient | hole | st.lists(case, min_size=1, max_size=3)


def parameters_of(spec, per_model):
    chosen = [p for p in spec.parameters if p.per_model or not per_model]
    return st.fixed_dictionaries({}, optional={p.name: values(p) for p in chosen})


@st.composite
def spaces(draw):
    spec = draw(st.sampled_from(methods.registered()))
    most = spec.max_models or 3
    count = draw(st.integers(spec.min_models, max(most, spec.min_models)))
    models = draw(st.lists(NAMES, min_size=count + 1, max_size=count + 1, unique=True))
    base, *rest = models
    if "factors" in spec.takes:  # in a base+adapter a plus sign is no part of a name
        base, *rest = (model.replace("+", "±") for model in models)
        rest = [f"{base}+{adapter}" for adapter in rest]
    document = {
        "merge_method": spec.name,
        "models": [{"model": m, "parameters": draw(parameters_of(spec, True))} for m in rest],
        "parameters": draw(parameters_of(spec, False)),
        "dtype": draw(st.sampled_from(["float32", "bfloat16"])),
    }
    if spec.takes_base:
        document["base_model"] = base
    if draw(st.booleans()):
        document["blocks"] = [
            {
                "layers": [0, draw(st.integers(1, 40))],
                "components": ["mlp"],
                "parameters": draw(parameters_of(spec, False)),
                "models": [{"model": rest[0], "parameters": draw(parameters_of(spec, True))}],
            }
        ]
    if draw(st.booleans()):
        document["seed"] = draw(st.integers(0, 2**63 - 1))
    return SearchSpace.from_dict(document)


@st.composite
def filled(draw):
    space = draw(spaces())
    point = [
        draw(
            st.sampled_from(d.choices)
            if d.choices
            else st.integers(d.low, d.high)
            if d.kind == "int"
            else st.floats(d.low, d.high)
        )
        for d in space.dimensions
    ]
    return space, point


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(filled())
def test_a_filled_space_survives_yaml_to_the_bit(drawn):
    space, point = drawn
    recipe = space.fill(point)
    again = Recipe.from_dict(yaml_file.parse(recipe.to_yaml(), "yaml"))
    assert again == recipe
    assert again.digest == recipe.digest == space.fill(tuple(point)).digest
    through_json = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert through_json.digest == recipe.digest


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spaces())
def test_dimensions_have_one_name_each_and_a_start_inside(space):
    names = [dimension.name for dimension in space.dimensions]
    assert len(set(names)) == len(names)
    assert all(dimension.contains(dimension.start) for dimension in space.dimensions)
    assert space.fill([dimension.start for dimension in space.dimensions])
