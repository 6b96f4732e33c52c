"""The report's reading of a recipe must be the merge's own: every value of every job."""

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint.opening import open_model
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from evomerge.report import recipe_view

LAYERS = 5
NAMES = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{end}" for i in range(LAYERS) for end in recipe_view.LAYER_PARTS.values()),
    "model.norm.weight",
    "lm_head.weight",
]
BLOCKS = [
    {
        "layers": [0, 3],
        "components": ["attention"],
        "merge_method": "task_arithmetic",
        "models": [{"model": "a", "parameters": {"weight": [0.1, 0.3]}}],
    },
    {"layers": [1, 5], "merge_method": "dare_ties", "parameters": {"density": [0.2, 0.9]}},
    {"components": ["head"], "merge_method": "ties", "parameters": {"weight": 0.77}},
]
RECIPES = {
    "gradients and filters": {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {
                "model": "a",
                "parameters": {
                    "weight": [
                        {"filter": "self_attn", "value": [0.0, 1.0, 0.5]},
                        {"filter": "lm_head", "value": 0.9},
                        {"value": 0.25},
                    ],
                    "density": [0.2, 0.8],
                },
            },
            {"model": "b", "parameters": {"weight": 0.6}},
        ],
        "parameters": {"density": [{"filter": "mlp", "value": 0.7}, {"value": 0.4}], "lambda": 1.5},
    },
    "blocks": {
        "merge_method": "ties",
        "base_model": "base",
        "models": [
            {"model": "a", "parameters": {"weight": [0.2, 1.2]}},
            {"model": "b", "parameters": {"weight": 0.6, "density": 0.3}},
        ],
        "parameters": {"density": 0.5},
        "blocks": BLOCKS,
    },
    "slerp": {
        "merge_method": "slerp",
        "base_model": "a",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"t": [{"filter": "mlp", "value": [0, 1, 0]}, {"value": 0.5}]},
    },
    "slices": {
        "merge_method": "linear",
        "slices": [
            {
                "sources": [
                    {"model": "a", "layer_range": [0, 3], "parameters": {"weight": [0.1, 0.5]}},
                    {"model": "b", "layer_range": [2, 5], "parameters": {"weight": 0.4}},
                ]
            },
            {
                "sources": [
                    {"model": "b", "layer_range": [3, 5], "parameters": {"weight": [1.0, 2.0]}},
                ]
            },
        ],
    },
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Three models of one-number tensors."""
    opened = {}
    for name in ("base", "a", "b"):
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text('{"num_hidden_layers": 5}')
        save_file({n: torch.ones(1) for n in NAMES}, folder / "model.safetensors")
        opened[name] = open_model(folder)
    return opened


@pytest.mark.parametrize("document", RECIPES.values(), ids=RECIPES)
def test_every_value_is_the_one_that_the_merge_uses(document, checkpoints):
    recipe = Recipe.from_dict(document)
    jobs = {job.name: job for job in plan(recipe, checkpoints).jobs}
    view, compared = recipe_view.recorded(recipe.to_dict()), 0
    named = recipe_view.parameters(view)
    for spot in recipe_view.spots(LAYERS):
        job = jobs[spot.tensor]
        assert recipe_view.method_at(view, spot, LAYERS) == job.method
        for parameter, used in job.parameters.items():
            if parameter not in named:
                continue
            per_model = isinstance(used, list)
            models = [ref.model for ref in job.models] if per_model else [None]
            for model, expected in zip(models, used if per_model else [used], strict=True):
                shown = recipe_view.value(view, parameter, model, spot, LAYERS)
                if shown is None:  # the recipe says nothing: the method's default holds
                    continue
                assert shown == pytest.approx(expected), (spot, parameter, model)
                compared += 1
    assert compared >= len(recipe_view.spots(LAYERS))


def test_a_recipe_without_a_known_depth_is_drawn_at_the_depth_it_shows():
    depths = {
        name: recipe_view.depth_of(recipe_view.recorded(Recipe.from_dict(document).to_dict()))
        for name, document in RECIPES.items()
    }
    assert depths == {"gradients and filters": 3, "blocks": 5, "slerp": 3, "slices": 5}
    plain = {"merge_method": "linear", "models": [{"model": "a"}]}
    assert recipe_view.depth_of(recipe_view.recorded(plain)) == 1
