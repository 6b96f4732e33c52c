import re

from evomerge.report.page import coefficients
from evomerge.report.run import Run
from tests.report import report_bench as bench


def shown(folder, recipe, layers=4):
    """The section for a run whose winner has this recipe."""
    events = bench.events()
    for event in events:
        if event["event"] == "study":
            event["layers"] = layers
        for trial in event.get("trials", []) if event["event"] == "asked" else []:
            if trial["trial"] == 6:
                trial["recipe"] = recipe
    return coefficients.section(Run.read(bench.write(folder, events)))["recipes"][0]


def tips(figure):
    """The tooltip of each cell, as drawn for a wide page."""
    wide = str(figure).partition('<div class="at-phone">')[0]
    return re.findall(r"<title>([^<]*)</title>", wide)


def test_a_weight_is_drawn_for_each_model_and_layer(tmp_path):
    section = shown(tmp_path, bench.recipe(0.5), layers=3)
    assert section["method"] == {"name": "task_arithmetic"}
    assert [m["title"] for m in section["maps"]] == ["weight"]
    assert tips(section["maps"][0]["figure"]) == [
        "left, outside: 0.250",
        "right, outside: 0.500",
        "left, layer 0: 0.250",
        "right, layer 0: 0.500",
        "left, layer 1: 0.500",
        "right, layer 1: 0.500",
        "left, layer 2: 0.750",
        "right, layer 2: 0.500",
    ]


def test_layers_that_are_alike_share_a_cell_and_constants_are_said_in_words(tmp_path):
    recipe = bench.recipe()
    ties = {"merge_method": "ties"}
    recipe |= ties
    recipe["parameters"] = {"density": 0.5, "normalize": True}
    recipe["blocks"] = [
        {
            **ties,
            "layers": [0, 2],
            "models": [{"model": "/zoo/left", "parameters": {"weight": 0.1}}],
        },
        {
            **ties,
            "layers": [2, 4],
            "models": [{"model": "/zoo/left", "parameters": {"weight": -0.9}}],
        },
    ]
    section = shown(tmp_path, recipe)
    assert section["fixed"] == ["density = 0.5", "normalize = true"]
    cells = tips(section["maps"][0]["figure"])
    assert "left, layers 0–1: 0.100" in cells
    assert "left, layers 2–3: −0.900" in cells
    assert 'class="cell n"' in str(section["maps"][0]["figure"])


def test_components_that_differ_get_a_map_each_and_methods_a_strip(tmp_path):
    recipe = bench.recipe()
    recipe["blocks"] = [
        {
            "layers": [0, 4],
            "components": ["attention"],
            "merge_method": "dare_ties",
            "parameters": {"density": [0.2, 0.8]},
        }
    ]
    section = shown(tmp_path, recipe)
    assert {m["title"] for m in section["maps"]} == {"weight", "density, attention"}
    assert tips(section["method"]["figure"]) == [
        "attention, layers 0 to 3: dare_ties",
        "mlp, layers 0 to 3: task_arithmetic",
        "norm, layers 0 to 3: task_arithmetic",
    ]
    assert "embedding: task_arithmetic" in section["method"]["outside"]


def test_values_at_the_end_of_their_range_are_pointed_out(tmp_path):
    section = shown(tmp_path, bench.recipe())  # its point is (0.25, 1.0), ranges are [0, 1]
    assert section["edges"] == ("1 of 2 values lie at an end of their range: left weight[1].")
