"""A path is drawn place by place, in the lane of the model whose layer stands there."""

import re

from evomerge.report import recipe_view
from evomerge.report.charts.path import Step, path


def slices(*parts):
    listed = []
    for model, first, end, factor in parts:
        source = {"model": model, "layer_range": [first, end]}
        if factor != 1:
            cases = [{"filter": "o_proj.", "value": factor}, {"value": 1.0}]
            source["parameters"] = {"scale": cases}
        listed.append({"sources": [source]})
    document = {"merge_method": "passthrough", "slices": listed, "dtype": "float32"}
    return recipe_view.recorded(document)


def test_hops_are_read_back_from_the_scales_of_what_layers_add():
    recipe = slices(("a", 0, 2, 1.0), ("b", 1, 3, 2.0), ("a", 2, 3, 0.5), ("a", 3, 4, 1.0))
    assert recipe_view.steps(recipe) == [
        *[("a", 0, 1.0), ("a", 1, 1.0)],
        *[("b", 1, 0.5), ("b", 2, 1.0)],
        *[("a", 2, 4.0), ("a", 3, 0.5)],
    ]


def test_a_recipe_without_slices_has_no_path():
    assert (
        recipe_view.steps(recipe_view.recorded({"merge_method": "linear", "models": ["a"]})) == []
    )


def test_each_place_has_a_dot_that_says_what_stands_there():
    steps = [Step("a", 0, 2), Step("a", 1, 2), Step("b", 1, 2, 0.5)]
    for width in (1000.0, 350.0):
        drawn = str(path(steps, "a path", width))
        tips = re.findall(r"<title>(place .*?)</title>", drawn)
        assert tips == [
            "place 0: layer 0 of a",
            "place 1: layer 1 of a",
            "place 2: layer 1 of b, hop 0.5",
        ]
        heights = [
            float(y) for y in re.findall(r'<circle class="ours" cx="[^"]+" cy="([^"]+)"', drawn)
        ]
        assert heights[1] < heights[0] < heights[2]
