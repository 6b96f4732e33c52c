"""Recipes and spaces that mergekit is held against."""

from evomerge import methods
from evomerge.recipe.space.shipped import shipped
from evomerge.recipe.space.space import SearchSpace
from tests.peer.both import (
    entries,
)

ATTENTION, MLP = "self_attn", "mlp"

NOT_IN_MERGEKIT = {
    spec.name for spec in (*methods.registered(), *methods.structures()) if not spec.in_mergekit
}


def words(document):
    """Every word in a space's document, methods among them."""
    if isinstance(document, dict):
        return set().union(*map(words, document.values()))
    if isinstance(document, list):
        return set().union(*map(words, document))
    return {document} if isinstance(document, str) else set()


SPACES = [
    space
    for space in shipped()
    if not words(SearchSpace.from_yaml(space).document) & NOT_IN_MERGEKIT
]


TRIMMED_BFLOAT16 = {  # deltas of few bits: many of one magnitude, some at the threshold
    "merge_method": "ties",
    "base_model": "base",
    "models": entries({"a": 1.0}, density=0.4),
}

# name: (family, recipe); models are named by their folders in the family
RECIPES = {
    "ties": (
        "llama",
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": entries({"a": 0.7, "b": 0.4, "c": 1.1}, density=[1.0, 0.5, 0.25]),
            "parameters": {"lambda": 0.9, "normalize": True},
        },
    ),
    "ties with filters": (
        "llama",
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": [
                {
                    "model": "a",
                    "parameters": {
                        "weight": [{"filter": ATTENTION, "value": [0.1, 0.9]}, {"value": 0.5}],
                        "density": [{"filter": MLP, "value": 0.3}, {"value": [0.9, 0.2]}],
                    },
                },
                {"model": "base"},
                {"model": "b", "parameters": {"weight": {"value": 0.3}, "density": 0.6}},
            ],
            "parameters": {"normalize": [{"filter": "layers.2.", "value": False}], "rescale": True},
        },
    ),
    "task arithmetic": (
        "llama",
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": entries({"a": [0.1, 0.8, 0.4], "b": -0.2, "c": 0.55}),
            "parameters": {"lambda": [{"filter": "lm_head", "value": 0.1}, {"value": [1.2, 0.7]}]},
        },
    ),
    "task arithmetic of bfloat16": (
        "llama-bf16",
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": entries({"a": [0.1, 0.8, 0.4], "b": 0.3}),
            "dtype": "bfloat16",
        },
    ),
    "ties of bfloat16 in float32": (
        "llama-bf16",
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": entries({"a": 0.6, "b": 0.7, "c": 0.3}),
            "dtype": "float32",
        },
    ),
    "ties into float16": (
        "llama",
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": entries({"a": 0.6, "b": 0.7}, density=0.4),
            "out_dtype": "float16",
        },
    ),
    "linear": ("llama", {"merge_method": "linear", "models": entries({"a": [0.9, 0.1], "b": 0.4})}),
    "linear with a base that only lends its config": (
        "llama",
        {
            "merge_method": "linear",
            "base_model": "base",
            "models": entries({"a": [0.9, 0.3, 0.1], "b": 0.4}),
            "parameters": {"normalize": False},
        },
    ),
    "linear with the base among the models": (
        "llama",
        {
            "merge_method": "linear",
            "base_model": "base",
            "models": entries({"a": 0.5, "base": 0.2, "b": 0.4}),
        },
    ),
    "slerp": (
        "llama",
        {
            "merge_method": "slerp",
            "base_model": "a",
            "models": ["a", "b"],
            "parameters": {"t": [{"filter": ATTENTION, "value": [0, 0.5, 1]}, {"value": 0.3}]},
        },
    ),
    "slerp with an unlisted base": (
        "llama",
        {
            "merge_method": "slerp",
            "base_model": "base",
            "models": ["b"],
            "parameters": {"t": [0.0, 0.7]},
        },
    ),
    "model stock": (
        "llama",
        {"merge_method": "model_stock", "base_model": "base", "models": ["a", "b", "c"]},
    ),
    "model stock by rows": (
        "qwen3",
        {
            "merge_method": "model_stock",
            "base_model": "base",
            "models": ["a", "b"],
            "parameters": {"filter_wise": True},
        },
    ),
    "passthrough": (
        "llama",
        {
            "merge_method": "passthrough",
            "models": [{"model": "a", "parameters": {"scale": [{"filter": MLP, "value": 0.5}]}}],
        },
    ),
    "a stack": (  # of Qwen3 mergekit refuses one: it leaves layer_types as they were
        "llama",
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": "a", "layer_range": [0, 3]}]},
                {"sources": [{"model": "b", "layer_range": [1, 4]}]},
            ],
        },
    ),
    "a path with hops": (
        "llama",
        {
            "merge_method": "passthrough",
            "base_model": "base",
            "path": [
                {"model": "b", "layers": [0, 2], "hop": [1.0, 0.8]},
                {"models": ["a", "b"], "layers": [1, 3], "hop": 1.3},
            ],
        },
    ),
    "a stack of gpt2": (
        "gpt2",
        {
            "merge_method": "passthrough",
            "base_model": "base",
            "slices": [
                {"sources": [{"model": "b", "layer_range": [0, 1]}]},
                {
                    "sources": [
                        {"model": "a", "layer_range": [0, 3], "parameters": {"scale": [1.0, 0.5]}}
                    ]
                },
            ],
        },
    ),
    "slices of ties": (
        "llama",
        {
            "merge_method": "ties",
            "base_model": "base",
            "slices": [
                {
                    "sources": [
                        {"model": m, "layer_range": [0, 3], "parameters": {"weight": w}}
                        for m, w in [("a", [0.2, 1.0]), ("b", 0.5)]
                    ],
                    "parameters": {"density": 0.5},
                },
                {
                    "sources": [
                        {"model": "b", "layer_range": [1, 3], "parameters": {"weight": 0.6}},
                        {"model": "a", "layer_range": [2, 4], "parameters": {"weight": [0.3, 0.9]}},
                        {"model": "c", "layer_range": [0, 2]},
                    ],
                    "base_model": "c",
                },
            ],
            "parameters": {"lambda": 0.8},
        },
    ),
    "blocks of ties": (
        "llama",
        {
            "merge_method": "ties",
            "base_model": "base",
            "models": entries({"a": [0.2, 0.9], "b": 0.4}, density=[0.9, 0.4, 0.7]),
            "parameters": {"lambda": [{"filter": "embed", "value": 0.5}, {"value": 1.0}]},
            "blocks": [
                {
                    "layers": [0, 3],
                    "components": ["attention"],
                    "models": entries({"a": [0.1, 0.5], "b": [0.7, 0.2, 0.4]}),
                    "parameters": {"lambda": 1.3},
                },
                {"layers": [1, 2], "models": entries({"b": 0.9}, density=0.33)},
                {"components": ["head", "norm"], "parameters": {"lambda": 0.6}},
            ],
        },
    ),
    "blocks of slerp": (
        "llama",
        {
            "merge_method": "slerp",
            "base_model": "a",
            "models": ["a", "b"],
            "parameters": {"t": 0.3},
            "blocks": [
                {"layers": [0, 2], "parameters": {"t": [0.2, 0.9]}},
                {"components": "embedding", "parameters": {"t": 1.0}},
            ],
        },
    ),
    "blocks of linear in gpt2": (
        "gpt2",
        {
            "merge_method": "linear",
            "base_model": "base",
            "models": entries({"a": 0.3, "b": [0.5, 0.8]}),
            "blocks": [
                {"components": ["attention", "embedding"], "models": entries({"a": 0.9})},
                {"layers": [1, 3], "components": "norm", "models": entries({"b": [0.1, 0.2]})},
            ],
        },
    ),
    "a method for each half": (
        "llama",
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": entries({"a": [0.2, 0.9], "b": 0.4}),
            "blocks": [
                {"layers": [0, 2], "merge_method": "ties", "parameters": {"density": [0.3, 0.7]}},
                {"layers": [3, 4], "merge_method": "linear"},
            ],
        },
    ),
    "merges inside a merge": (
        "llama",
        {
            "merges": {
                "soup": {
                    "merge_method": "linear",
                    "models": entries({"a": 1.0, "b": 0.5}),
                    "base_model": "base",
                    "out_dtype": "bfloat16",
                },
                "halves": {
                    "merge_method": "task_arithmetic",
                    "base_model": "base",
                    "models": entries({"soup": 0.5, "c": 0.4}),
                    "blocks": [{"layers": [0, 2], "merge_method": "linear"}],
                },
            },
            "merge_method": "ties",
            "base_model": "base",
            "models": entries({"halves": 0.8, "soup": 0.3}, density=0.6),
        },
    ),
    "a merge as the base": (
        "qwen3",
        {
            "merges": {
                "fused": {"merge_method": "linear", "models": entries({"a": 1.0, "b": 1.0})}
            },
            "merge_method": "task_arithmetic",
            "base_model": "fused",
            "models": entries({"c": 0.5, "b": -0.2}),
        },
    ),
    "methods mixed inside layers": (
        "qwen3-tied",
        {
            "merge_method": "task_arithmetic",
            "base_model": "base",
            "models": entries({"a": [0.2, 0.9], "b": 0.4}),
            "blocks": [
                {
                    "components": ["attention"],
                    "merge_method": "ties",
                    "parameters": {"density": [0.3, 0.7], "lambda": 1.1},
                },
                {"components": ["embedding"], "merge_method": "model_stock"},
                {"layers": [1, 3], "components": ["norm"], "merge_method": "linear"},
            ],
        },
    ),
}
