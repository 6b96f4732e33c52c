"""Spaces of paths: which slots are dimensions, what a point makes of them, and where they start."""

import pytest

from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.space import SearchSpace
from tests.models import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_family(tmp_path_factory.mktemp("family"), layers=3)


@pytest.fixture(scope="module")
def bound(family):
    def space(*path, **keys):
        made = SearchSpace.from_dict({"path": list(path), **keys})
        return made.bind(family["base"], [family["a"], family["b"]], "float32")

    return space


def start(space):
    return [dimension.start for dimension in space.dimensions]


def layers(recipe):
    """The (model, layer) of each output layer."""
    sources = [part.sources[0] for part in recipe.slices]
    return [
        (s.model[s.model.rfind("/") + 1 :], layer)
        for s in sources
        for layer in range(*s.layer_range)
    ]


def alone(model):
    weight = {"model": model, "parameters": {"weight": 1.0}}
    document = {"merge_method": "linear", "models": [weight], "out_dtype": "float32"}
    return Recipe.from_dict({**document, "parameters": {"normalize": False}})


def test_slots_are_all_layers_of_all_models_so_many_times_over(bound):
    """Akiba 2024: T = M r slots; a hop means something only where its layer takes part."""
    space = bound(
        {"models": ["*"], "times": 2, "include": "search", "hop": {"low": 0.5, "high": 1.5}}
    )
    names = [dimension.name for dimension in space.dimensions]
    assert len(names) == len(set(names)) == 2 * (2 * 3 * 2)
    assert names[:4] == [f"path[{one}].include" for one in ("a.0", "a.1", "a.2", "b.0")]
    hop = space.dimensions[names.index("path[b.1~2].hop")]
    assert hop.needs == ((("path[b.1~2].include", (True,)),),)
    every = space.fill([True] * 12 + [1.0] * 12)
    assert layers(every) == [(m, i) for _ in range(2) for m in "ab" for i in range(3)]


def test_a_search_starts_with_the_first_models_layers_and_each_parent_lies_in_the_space(
    bound, family
):
    space = bound({"models": ["*"], "times": 2, "include": "search", "hop": "search"})
    assert layers(space.fill(start(space))) == [("a", 0), ("a", 1), ("a", 2)]
    for name in "ab":
        point = point_of(space, alone(family[name]))
        assert point is not None
        assert layers(space.fill(point)) == [(name, i) for i in range(3)]
    assert point_of(space, alone(family["base"])) is None


def test_without_any_optional_slot_the_path_is_the_parent(bound):
    space = bound(
        {"model": "*base", "layers": [0, 1]},
        {"models": ["*"], "layers": [1, 2], "include": "search", "hop": "search"},
        {"model": "*base", "layers": [1, 3]},
    )
    nothing = space.fill([False, False, 0.7, 1.9])
    assert layers(nothing) == [("base", 0), ("base", 1), ("base", 2)]
    assert not any(part.sources[0].parameters for part in nothing.slices)


def test_if_nothing_takes_part_the_first_slot_stays(bound):
    space = bound({"models": ["*"], "include": "search"})
    assert layers(space.fill([False] * 6)) == [("a", 0)]


def test_hops_multiply_along_the_path(bound):
    space = bound({"model": "*base", "hop": {"low": 0.25, "high": 4.0}})
    recipe = space.fill([1.0, 2.0, 4.0])
    scales = [part.sources[0].parameters.get("scale") for part in recipe.slices]
    assert scales[0] is None
    assert [scale[0]["value"] for scale in scales[1:]] == [1 / 2, 1 / 8]


def test_depth_up_scaling_has_its_overlap_as_a_gene(bound):
    space = bound({"model": "*base", "times": {"low": 1, "high": 3}, "trim": {"low": 0, "high": 1}})
    times, trim = space.dimensions
    assert trim.needs == (((times.name, (2, 3)),),)
    expected = {
        (1, 1): [0, 1, 2],
        (2, 0): [0, 1, 2, 0, 1, 2],
        (2, 1): [0, 1, 1, 2],
        (3, 1): [0, 1, 1, 1, 2],
    }
    for point, order in expected.items():
        assert [layer for _, layer in layers(space.fill(point))] == order


def test_ends_of_layers_are_genes_too(bound):
    space = bound(
        {"model": "*1", "layers": [0, {"low": 1, "high": 3}]},
        {"model": "*2", "layers": [{"low": 0, "high": 2}, 3]},
    )
    assert layers(space.fill((2, 1))) == [("a", 0), ("a", 1), ("b", 1), ("b", 2)]


def test_a_merge_made_first_lends_its_layers(bound):
    """First parameter space, then data flow."""
    weights = [{"model": "*", "parameters": {"weight": {"low": 0, "high": 1}}}]
    merges = {"merged": {"merge_method": "linear", "models": weights}}
    space = bound({"model": "merged"}, {"models": ["*"], "include": "search"}, merges=merges)
    assert layers(space.fill(start(space))) == [("merged", i) for i in range(3)]
    assert [d.parameter for d in space.dimensions] == ["weight"] * 2 + ["include"] * 6


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"include": "search", "times": {"low": 1, "high": 2}}, "expected layers, times and trim"),
        ({"layers": [{"low": 0, "high": 2}, {"low": 2, "high": 3}]}, "first layer below every end"),
        ({"layers": [0, {"low": 1, "high": 4}]}, "`0 <= first < end <= 3`, the layers of"),
        ({"hop": {"low": 0, "high": 1}}, "`0 < low <= initial <= high`"),
        ({"times": {"low": 1, "high": 3}, "trim": {"low": 0, "high": 2}}, "nothing is left of one"),
        ({"include": {"initial": 1}}, "expected initial to be true or false"),
        ({"include": {"choice": [True]}}, "unknown key 'choice'"),
        ({"trim": {"low": 0.5, "high": 1}}, "as whole numbers"),
    ],
)
def test_holes_that_leave_no_model_are_refused_before_a_search(entry, message, bound):
    with pytest.raises(UserError, match=message):
        bound({"model": "*base", **entry})


def test_the_deepest_recipe_of_a_space_is_known(bound):
    assert bound({"models": ["*"], "times": 2, "include": "search"}).most_layers == 12
    genes = {"times": {"low": 1, "high": 3}, "trim": {"low": 0, "high": 1}}
    assert bound({"model": "*base", **genes}).most_layers == 9


@pytest.mark.parametrize(
    ("name", "whole"), [("drop_layers", (True, True, True)), ("depth_up_scaling", (1, 0))]
)
def test_an_anchor_lies_where_all_layers_of_the_merge_stay(name, whole, family):
    """So that a search for layers to drop or repeat starts at the best simple merge."""
    space = SearchSpace.from_yaml(name)
    space = space.bind(family["base"], [family["a"], family["b"]], "float32")
    models = [{"model": family[m], "parameters": {"weight": 0.7}} for m in "ab"]
    document = {"merge_method": "task_arithmetic", "base_model": family["base"], "models": models}
    anchor = Recipe.from_dict({**document, "dtype": "float32", "out_dtype": "float32"})
    assert point_of(space, anchor) == (0.7, 0.7, *whole)
    assert point_of(space, alone(family["a"])) is None
