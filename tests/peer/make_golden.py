"""Run mergekit on small fixed tensors and write down what it returns.

    MERGEKIT_PYTHON tests/peer/make_golden.py OUT.safetensors [--shapes 24x20,37,...]

is to be run by the Python of an environment that has mergekit (it needs nothing of this
project). It calls `mergekit.merge_methods.merge_tensors` on one thread. The file holds every
input, every output and, as JSON in its metadata, what was called and with which versions.

For the methods that drop at random, the masks are given: `torch.bernoulli` is replaced by a
function that returns ours, so that the arithmetic around it can be compared to the bit; and a few
statistics of mergekit with its own masks are recorded.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform

import numpy as np
import torch
from mergekit.merge_methods import merge_tensors
from safetensors.torch import save_file

N_MODELS = 5
SHAPES = "24x20,37,1,6x5x7,scalar"

# (method, number of models, parameters); "lambda" and the rest as mergekit spells them
DETERMINISTIC = [
    ("linear", 2, {"weight": [0.3, 0.7]}),
    ("linear", 3, {"weight": [0.2, 0.5, 0.9], "normalize": False}),
    ("linear", 3, {"weight": [0.2, 0.5, 0.9]}),
    ("linear", 3, {"weight": [1.3, -0.4, 0.6]}),
    ("linear", 5, {"weight": [0.1, 0.3, 0.37, 0.2, 0.9]}),
    ("slerp", 1, {"t": 0.0}),
    ("slerp", 1, {"t": 0.123}),
    ("slerp", 1, {"t": 0.5}),
    ("slerp", 1, {"t": 0.77}),
    ("slerp", 1, {"t": 1.0}),
    ("task_arithmetic", 1, {"weight": [0.4]}),
    ("task_arithmetic", 2, {"weight": [0.3, 0.7], "lambda": 0.6}),
    ("task_arithmetic", 3, {"weight": [0.3, 0.7, 1.1], "normalize": True}),
    ("task_arithmetic", 3, {"weight": [0.3, -0.7, 0.2], "lambda": 1.7}),
    ("task_arithmetic", 4, {"weight": [0.3, 0.7, 0.2, 0.45]}),
    ("task_arithmetic", 5, {"weight": [0.3, 0.7, 0.2, 0.45, 0.9], "lambda": 0.35}),
    ("task_arithmetic", 2, {"weight": [0.3, 0.7], "lambda": 0.0}),
    ("ties", 2, {"weight": [0.5, 0.5], "density": [0.2, 0.2]}),
    ("ties", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.2, 0.5, 1.0]}),
    ("ties", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.33, 0.5, 0.9], "normalize": False}),
    ("ties", 3, {"weight": [0.3, -0.7, 1.1], "density": [0.7, 0.5, 0.9], "lambda": 0.4}),
    ("ties", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.2, 0.0, 0.001], "rescale": True}),
    ("ties", 4, {"weight": [0.3, 0.7, 0.2, 0.45], "density": [0.6, 0.5, 0.8, 0.7]}),
    ("ties", 5, {"weight": [0.3, 0.7, 0.2, 0.45, 0.9], "density": [0.6, 0.5, 0.8, 0.7, 1.0]}),
    ("ties", 2, {"weight": [0.0, 0.0], "density": [0.5, 1.0]}),
    ("model_stock", 2, {}),
    ("model_stock", 2, {"filter_wise": True}),
    ("model_stock", 3, {}),
    ("model_stock", 3, {"filter_wise": True}),
    ("model_stock", 5, {}),
    ("passthrough", 1, {}),
    ("passthrough", 1, {"scale": [1.0]}),
    ("passthrough", 1, {"scale": [0.37]}),
    ("passthrough", 1, {"scale": [-1.5]}),
]
MASKED = [
    ("dare_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.5]}),
    ("dare_linear", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.2, 1.0, 0.7], "lambda": 0.6}),
    ("dare_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.1], "rescale": False}),
    ("dare_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.9], "normalize": True}),
    ("dare_ties", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.5]}),
    ("dare_ties", 3, {"weight": [0.3, 0.7, -1.1], "density": [0.2, 1.0, 0.7], "lambda": 0.6}),
    ("dare_ties", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.5, 0.6, 0.7], "rescale": False}),
    ("dare_ties", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.5, 0.6, 0.7], "normalize": True}),
]
STATISTICS = {"density": 0.3, "repetitions": 400, "shape": (32, 32)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="the .safetensors file to write")
    parser.add_argument("--shapes", default=SHAPES, help="such as 24x20,37,scalar")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shapes = [read_shape(word) for word in arguments.shapes.split(",")]
    tensors = inputs(shapes)
    calls = []
    for shape_index in range(len(shapes)):
        base, models = tensors[f"base.{shape_index}"], []
        for model in range(N_MODELS):
            models.append(tensors[f"model.{model}.{shape_index}"])
        masks = [tensors[f"mask.{model}.{shape_index}"] for model in range(N_MODELS)]
        for method, n_models, parameters in DETERMINISTIC + MASKED:
            name = f"out.{len(calls)}"
            tensors[name] = merge(method, base, models[:n_models], parameters, masks)
            calls.append(
                {
                    "out": name,
                    "method": method,
                    "models": n_models,
                    "parameters": parameters,
                    "shape": shape_index,
                    "masked": (method, n_models, parameters) in MASKED,
                }
            )
    metadata = {
        "mergekit": importlib.metadata.version("mergekit"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "date": datetime.date.today().isoformat(),
        "calls": json.dumps(calls),
        "statistics": json.dumps(statistics()),
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, arguments.out, metadata)
    print(f"{len(calls)} merges by mergekit {metadata['mergekit']} in {arguments.out}")


def read_shape(word):
    return () if word == "scalar" else tuple(int(part) for part in word.split("x"))


def inputs(shapes):
    """A base, and models whose deltas are about a tenth of it; masks for the random methods."""
    random = np.random.default_rng(2306)
    tensors = {}
    for index, shape in enumerate(shapes):
        base = np.asarray(random.normal(size=shape), dtype=np.float32)
        tensors[f"base.{index}"] = torch.from_numpy(base)
        for model in range(N_MODELS):
            delta = 0.1 * random.normal(size=shape) + 0.02
            tensor = np.asarray(base + delta, dtype=np.float32)
            tensors[f"model.{model}.{index}"] = torch.from_numpy(tensor)
            mask = np.asarray(random.random(size=shape) < 0.5, dtype=np.uint8)
            tensors[f"mask.{model}.{index}"] = torch.from_numpy(mask)
    return tensors


def merge(method, base, models, parameters, masks):
    """One call of mergekit: the base is input 0 where the method takes one, models are 1, 2, ..."""
    takes_base = method not in ("linear", "passthrough")
    ids = list(range(1, len(models) + 1))
    given = {
        name: dict(zip(ids, value, strict=True)) if isinstance(value, list) else value
        for name, value in parameters.items()
    }
    densities = parameters.get("density", [])
    queue = [mask for mask, density in zip(masks, densities, strict=False) if density < 1]
    bernoulli, torch.bernoulli = torch.bernoulli, lambda p: queue.pop(0).to(p.dtype)
    try:
        return merge_tensors(
            [base, *models] if takes_base else models,
            method,
            parameters=given,
            ids=[0, *ids] if takes_base else ids,
            base_index=0 if takes_base else None,
        ).clone()
    finally:
        torch.bernoulli = bernoulli


def statistics():
    """Of dare_linear with mergekit's own masks, one model, weight 1, delta 1 everywhere."""
    torch.manual_seed(0)
    density, shape = STATISTICS["density"], STATISTICS["shape"]
    kept, values = [], []
    for _ in range(STATISTICS["repetitions"]):
        merged = merge_tensors(
            [torch.zeros(shape), torch.ones(shape)],
            "dare_linear",
            parameters={"weight": {1: 1.0}, "density": {1: density}},
            ids=[0, 1],
            base_index=0,
        )
        kept.append(float((merged != 0).float().mean()))
        values.append(float(merged.max()))
    return {
        **STATISTICS,
        "kept_mean": float(np.mean(kept)),
        "kept_std": float(np.std(kept)),
        "value_mean": float(np.mean(values)),
        "value_std": float(np.std(values)),
    }


if __name__ == "__main__":
    main()
