"""Holes, templates, binding and filling; the spaces that evomerge ships."""

import random

import pytest

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.optimizers.coordinates import Coordinates
from evomerge.recipe.space.shipped import find, shipped
from evomerge.recipe.space.space import SearchSpace
from tests.recipe.space.test_filling import CHOICE, space_of
from tests.recipe.test_read import mutated


def start_of(space):
    return tuple(dimension.start for dimension in space.dimensions)


TAKES = {
    "slerp_pair": 2,
    "thinking_and_instruct": 2,
    "task_and_language": 3,
}  # the others take any number of models


def drawn(draw, dimension):
    if dimension.kind == "categorical":
        return draw.choice(dimension.choices)
    if dimension.kind == "int":
        return draw.randint(dimension.low, dimension.high)
    return draw.uniform(dimension.low, dimension.high)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", shipped())
def test_every_shipped_space_binds_and_fills_with_two_to_four_models(name, count, zoo):
    models = [zoo[m] for m in "abcd"[:count]]
    takes = TAKES.get(name, count)
    if takes != count:
        wrong = rf"it takes {takes} models \(\*1 to \*{takes}\), but got {count}|there are 2 models"
        with pytest.raises(UserError, match=wrong):
            SearchSpace.from_yaml(name).bind(zoo["base"], models)
        return
    template = SearchSpace.from_yaml(name)
    assert template.unbound
    space = template.bind(zoo["base"], models, dtype="bfloat16", seed=5)
    assert not space.unbound
    assert len({dimension.name for dimension in space.dimensions}) == len(space.dimensions) > 0
    draw = random.Random(count)
    for _ in range(20):
        point = [drawn(draw, d) for d in space.dimensions]
        recipe = space.fill(point)
        listed = [entry.model for entry in recipe.models if entry.model not in recipe.merges]
        assert listed == (listed if name == "which_parents" or recipe.slices else models)
        assert (recipe.out_dtype, recipe.seed) == ("bfloat16", 5)
        assert recipe.digest == space.fill(point).digest
    ends = [(d.choices or (d.low, d.high))[-1] for d in space.dimensions]
    ends[0] = (space.dimensions[0].choices or (space.dimensions[0].low,))[0]  # no common shift
    assert space.fill(ends).digest != space.fill(start_of(space)).digest


EXPECTED_DIMENSIONS = {  # for two models of six layers, counted by hand from the files
    "global_linear": 2,
    "slerp_pair": 8,
    "task_arithmetic_by_depth": 16,
    "ties_by_depth": 2 * 8 + 1,
    "dare_ties_by_block": 4 * 2 * 2 + 2 * 2,
    "mixed_methods": 2 + 6 * (1 + 1 + 2),
    "which_parents": 2 * (1 + 4),
    "task_and_language": 3,  # of its three models
    "thinking_and_instruct": 2 * 4 * 2,
    "task_arithmetic_by_component": 2 * (6 * 3 + 2),  # attention, MLP, norm; embedding, last norm
    "task_arithmetic_by_tensor": 2 * (6 * 4 + 2),
    "learned_soup": 2 * (6 * 4 + 2),
    "concrete": 2 * (6 * 4 + 2),
    "regmean": 2 + 2,
    "regmean_then_tensor": 3 * (6 * 4 + 2),
    "moe": 2 + 2 + 1 + 1,
    "mole": 2,
    "layer_path": 2 * 2 * 6 * 2,
    "drop_layers": 2 + 6,
    "depth_up_scaling": 2 + 2,
    "scaled_layers": 2 + 6,
}


def test_shipped_spaces_have_the_dimensions_that_they_say(zoo):
    counted = {
        name: len(
            SearchSpace.from_yaml(name)
            .bind(zoo["base"], [zoo[m] for m in "abc"[: TAKES.get(name, 2)]])
            .dimensions
        )
        for name in shipped()
    }
    assert counted == EXPECTED_DIMENSIONS


def test_a_space_is_found_by_name_or_path_and_the_nearest_is_suggested(tmp_path):
    assert find("slerp_pair").name == "slerp_pair.yaml"
    (tmp_path / "mine.yaml").write_text("merge_method: linear\nmodels: ['*']\n")
    assert find(tmp_path / "mine.yaml") == tmp_path / "mine.yaml"
    with pytest.raises(UserError, match=r"slerp_pairs: no such file, .* did you mean 'slerp_pair'"):
        find("slerp_pairs")


def test_binding_puts_models_in_their_places_and_leaves_the_template_alone(zoo):
    template = {
        "merge_method": "ties",
        "base_model": "*base",
        "models": [
            "*2",
            {"model": "*1", "parameters": {"weight": [{"filter": "*", "value": "search"}]}},
        ],
        "parameters": {"weight": 0.5},
        "dtype": "float32",
    }
    space = SearchSpace.from_dict(template)
    assert space.unbound
    bound = space.bind(zoo["base"], [zoo["a"], zoo["b"]])
    assert not bound.unbound
    recipe = bound.fill((0.25,))
    assert [entry.model for entry in recipe.models] == [zoo["b"], zoo["a"]]
    assert recipe.base_model == zoo["base"]
    assert recipe.models[1].parameters == {"weight": [{"filter": "*", "value": 0.25}]}
    assert space.document == template


def test_binding_does_not_change_keys_that_the_space_sets(zoo):
    document = space_of(base_model=zoo["d"], out_dtype="float16", seed=3)
    recipe = (
        SearchSpace.from_dict(document)
        .bind(zoo["base"], [zoo["a"]], "bfloat16", 9)
        .fill((0.5, 0.5))
    )
    assert (recipe.base_model, recipe.out_dtype, recipe.seed) == (zoo["d"], "float16", 3)


def test_groups_cut_the_layers_into_blocks_of_equal_depth(zoo):
    block = {"layers": {"groups": 4}, "parameters": {"lambda": "search"}}
    template = SearchSpace.from_dict(space_of(blocks=[block, {"layers": [0, 1]}]))
    assert template.unbound
    space = template.bind(zoo["base"], [])
    # round(6 i / 4) for i = 0..4, halves to even
    assert [b["layers"] for b in space.document["blocks"]] == [
        [0, 2],
        [2, 3],
        [3, 4],
        [4, 6],
        [0, 1],
    ]
    assert [d.name for d in space.dimensions][-2:] == ["blocks[3:4].lambda", "blocks[4:6].lambda"]


@pytest.mark.parametrize("groups", [0, 7, 2.0, True, "4", None])
def test_a_number_of_groups_that_the_depth_does_not_allow_is_refused(groups, zoo):
    template = SearchSpace.from_dict(space_of(blocks=[{"layers": {"groups": groups}}]))
    with pytest.raises(UserError, match=r"groups: expected 1 to 6 \(its layers\), got"):
        template.bind(zoo["base"], [])


def test_groups_of_a_model_that_cannot_be_read_are_the_users_to_mend(zoo, tmp_path):
    template = SearchSpace.from_dict(space_of(blocks=[{"layers": {"groups": 2}}]))
    with pytest.raises(UserError, match="no such folder"):
        template.bind(str(tmp_path / "nowhere"), [])
    (tmp_path / "base" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: does not say how many layers"):
        template.bind(zoo["base"], [])
    with pytest.raises(UserError, match="groups of layers need a model that says how many"):
        template.bind(None, [])
    (tmp_path / "base" / "config.json").unlink()
    with pytest.raises(UserError, match=r"it has no config\.json"):
        template.bind(zoo["base"], [])


@pytest.mark.parametrize(
    ("models", "bound_to", "message"),
    [
        (["*3"], ["a", "b"], r"it asks for model \*3 but there are 2 models"),
        (["*0"], [], r"it asks for model \*0 but there are 0 models"),
        (["*x"], ["a"], r"it asks for model \*x but there are 1 models"),
        (["*1"], ["a", "b"], r"it takes 1 models \(\*1 to \*1\), but got 2"),
        (["*base", "a"], ["a"], "it asks for a base model and there is none"),
        (["*"], [], "expected either models or slices"),
    ],
)
def test_a_template_gets_all_the_models_that_it_asks_for_and_no_more(models, bound_to, message):
    document = {"merge_method": "linear", "models": models, "parameters": {"weight": "search"}}
    with pytest.raises(UserError, match=message):
        SearchSpace.from_dict(document).bind(None, bound_to)


def test_every_model_and_one_by_its_number_go_together(zoo):
    document = {
        "merge_method": "ties",
        "base_model": "*1",
        "models": ["*"],
        "parameters": {"weight": "search"},
    }
    recipe = SearchSpace.from_dict(document).bind(zoo["base"], list("abc")).fill((0.5,))
    assert recipe.base_model == "a"
    assert [entry.model for entry in recipe.models] == list("abc")


MIXED = yaml_file.read(shipped()["mixed_methods"])
MIXED["blocks"] = [{**block, "layers": [0, 2]} for block in MIXED["blocks"]]


WHICH = {
    "merge_method": {"choice": ["task_arithmetic", "ties"]},
    "base_model": "base",
    "models": [
        {"model": name, "include": "search", "parameters": {"weight": "search"}} for name in "abc"
    ],
    "parameters": {"density": "search"},
    "blocks": [
        {"layers": [0, 2], "models": [{"model": "a", "parameters": {"weight": "search"}}]},
        {
            "layers": [2, 4],
            "models": [
                {"model": "b", "parameters": {"weight": "search"}},
                {"model": "c", "parameters": {"weight": "search"}},
            ],
        },
    ],
}


@pytest.mark.parametrize("document", [CHOICE, space_of(), MIXED, WHICH])
def test_a_mutated_space_is_read_or_refused(document):
    draw, read = random.Random(5), 0
    for _ in range(700):
        wrong = document
        for _ in range(draw.randint(1, 3)):
            wrong = mutated(wrong, draw) if isinstance(wrong, dict | list) else wrong
        try:
            space = SearchSpace.from_dict(wrong).bind("base", ["a", "b"])
            space.fill(start_of(space))
            read += 1
        except UserError:
            continue
    assert read > 5


OPEN_TOP = {
    "merge_method": {"choice": ["ties", "dare_ties", "breadcrumbs", "linear"]},
    "base_model": "base",
    "models": [
        {"model": "a", "parameters": {"weight": "search", "density": "search"}},
        {"model": "b", "parameters": {"weight": "search", "density": "search"}},
    ],
    "parameters": {"gamma": "search", "normalize": "search", "lambda": "search"},
    "blocks": [
        {"layers": [0, 2], "parameters": {"density": "search"}},
        {"layers": [2, 4], "merge_method": "breadcrumbs", "parameters": {"gamma": "search"}},
        {
            "layers": [4, 5],
            "merge_method": {"choice": ["ties", "task_arithmetic"]},
            "models": [{"model": "a", "parameters": {"density": {"low": 0.1, "high": 0.9}}}],
        },
    ],
}


@pytest.mark.parametrize("name", ["mixed_methods", "which_parents", "open top", "which"])
def test_a_recipe_has_exactly_the_parameters_that_are_active(zoo, name):
    if name in ("open top", "which"):
        space = SearchSpace.from_dict({"open top": OPEN_TOP, "which": WHICH}[name])
    else:
        space = SearchSpace.from_yaml(name).bind(zoo["base"], ["a", "b"])
    coordinates, draw = Coordinates(space.dimensions), random.Random(7)

    def drawn(dimension):
        if dimension.kind == "categorical":
            return draw.choice(dimension.choices)
        return draw.uniform(dimension.low, dimension.high)

    seen = {True: 0, False: 0}
    for _ in range(30):
        point = [drawn(dimension) for dimension in space.dimensions]
        digest = space.fill(point).digest
        assert space.fill(coordinates.at_start(point)).digest == digest
        for i, dimension in enumerate(space.dimensions):
            if dimension.kind == "float":
                other = [*point[:i], drawn(dimension), *point[i + 1 :]]
                active = not coordinates.is_inactive(i, point)
                seen[active] += 1
                assert (space.fill(other).digest != digest) == active, dimension.name
    assert min(seen.values()) > 10


def test_a_model_that_takes_no_part_leaves_no_trace_and_one_always_stays():
    space = SearchSpace.from_dict(WHICH)
    names = [dimension.name for dimension in space.dimensions]

    def filled(*present):
        values = dict(zip(names, start_of(space), strict=True))
        values |= {f"models[{model}].include": model in present for model in "abc"}
        return space.fill([values[name] for name in names])

    everybody = filled("a", "b", "c")
    assert [entry.model for entry in everybody.models] == ["a", "b", "c"]
    two = filled("a", "c")
    assert [entry.model for entry in two.models] == ["a", "c"]
    assert [[entry.model for entry in block.models] for block in two.blocks] == [["a"], ["c"]]
    alone = filled("a")
    assert [[entry.model for entry in block.models] for block in alone.blocks] == [["a"], []]
    assert "include" not in str(alone.to_dict())
    assert filled().digest == alone.digest != filled("b").digest
    assert two.digest != everybody.digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"include": "maybe"}, "include"),
        ({"include": {"choice": [True]}}, r"expected search or \{choice: \[true, false\]\}"),
        ({"include": {"choice": [True, False], "initial": 1}}, "initial to be true or false"),
    ],
)
def test_an_include_that_leaves_nothing_open_is_refused(change, words):
    document = {"merge_method": "linear", "models": [{"model": "a", **change}, "b"]}
    document["parameters"] = {"weight": "search"}
    with pytest.raises(UserError, match=words):
        SearchSpace.from_dict(document)


def test_a_method_that_needs_two_models_is_refused_where_one_may_be_left_out():
    models = [{"model": name, "include": "search"} for name in "ab"]
    document = {"merge_method": "slerp", "base_model": "a", "models": models}
    document["parameters"] = {"t": "search"}
    with pytest.raises(UserError, match="slerp"):
        SearchSpace.from_dict(document)


@pytest.mark.parametrize("key", [{"tokenizer_source": None}, {"tokenizer": {"source": None}}])
def test_a_tokenizer_is_nothing_to_choose_and_the_reason_is_said(key):
    choice = {"choice": ["base", "union"]}
    name = next(iter(key))
    keys = {name: {"source": choice} if key[name] else choice}
    with pytest.raises(UserError, match="all candidates are scored on the same tokens of every"):
        SearchSpace.from_dict(space_of(**keys))
