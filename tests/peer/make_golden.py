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
BASE = "takes base"  # no parameter of mergekit: whether an optional base is given
WITHOUT_BASE = ("linear", "passthrough", "karcher")
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
    ("passthrough", 1, {"scale": [2.5]}),
    ("nuslerp", 2, {"weight": [0.3, 0.7]}),
    ("nuslerp", 2, {"weight": [0.3, 0.7], BASE: False}),
    ("nuslerp", 2, {"weight": [1.2, 0.7], "nuslerp_flatten": False, BASE: False}),
    ("nuslerp", 2, {"weight": [0.3, 0.1], "nuslerp_flatten": False}),
    ("nuslerp", 2, {"weight": [0.3, 0.1], "nuslerp_flatten": False, "nuslerp_row_wise": True}),
    ("nuslerp", 2, {"weight": [0.5, -0.5]}),
    ("multislerp", 1, {"weight": [0.3]}),
    ("multislerp", 2, {"weight": [0.3, 0.6]}),
    ("multislerp", 3, {"weight": [0.3, 0.6, 0.4]}),
    ("multislerp", 3, {"weight": [0.3, 0.6, 0.4], "normalize_weights": False}),
    ("multislerp", 3, {"weight": [0.3, 0.6, 0.4], BASE: False}),
    ("multislerp", 2, {"weight": [0.3, -0.6], BASE: False}),
    ("multislerp", 5, {"weight": [0.3, 0.6, 0.4, 0.7, 0.1], "eps": 1e-6}),
    ("karcher", 1, {}),
    ("karcher", 2, {}),
    ("karcher", 3, {}),
    ("karcher", 3, {"max_iter": 1}),
    ("karcher", 4, {"max_iter": 40, "tol": 1e-8}),
    ("karcher", 5, {"tol": 0.001}),
    ("breadcrumbs", 1, {"weight": [0.6], "density": [0.5], "gamma": [0.1]}),
    ("breadcrumbs", 2, {"weight": [0.3, 0.7], "density": [0.9, 0.4]}),
    ("breadcrumbs", 2, {"weight": [0.3, 0.7], "density": [0.9, 0.97], "gamma": [0.2, 0.05]}),
    ("breadcrumbs", 3, {"weight": [0.3, 0.7, -1.1], "density": [0.2, 1.0, 0.5], "lambda": 0.6}),
    ("breadcrumbs", 3, {"weight": [0.3, 0.7, 0.2], "density": [0.5] * 3, "rescale": True}),
    ("breadcrumbs", 3, {"weight": [0.3, 0.7, 0.2], "density": [0.5] * 3, "normalize": True}),
    ("breadcrumbs_ties", 2, {"weight": [0.3, 0.7], "density": [0.9, 0.4]}),
    ("breadcrumbs_ties", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.4], "gamma": [0.2, 0.05]}),
    ("breadcrumbs_ties", 3, {"weight": [0.3, 0.7, -1.1], "density": [0.2, 1.0, 0.5]}),
    ("breadcrumbs_ties", 3, {"weight": [0.3, 0.7, 0.2], "density": [0.5] * 3, "rescale": True}),
    ("breadcrumbs_ties", 3, {"weight": [0.3, 0.7, 0.2], "density": [0.5] * 3, "normalize": True}),
    ("sce", 1, {"select_topk": 0.5}),
    ("sce", 2, {}),
    ("sce", 2, {"select_topk": 0.1}),
    ("sce", 3, {"select_topk": 0.37}),
    ("sce", 4, {"select_topk": 0.8}),
    ("sce", 5, {}),
    ("ram", 1, {}),
    ("ram", 2, {}),
    ("ram", 3, {"epsilon": 0.1}),
    ("ram", 4, {"epsilon": 0.05}),
    ("ram", 5, {"epsilon": 0.15}),
    ("ramplus_tl", 1, {}),
    ("ramplus_tl", 2, {"epsilon": 0.1}),
    ("ramplus_tl", 3, {"epsilon": 0.1, "r": 0.5, "alpha": 2.0}),
    ("ramplus_tl", 4, {"epsilon": 0.15, "r": 0.3, "alpha": 0.7}),
    ("ramplus_tl", 5, {"epsilon": 0.2, "r": 1.0, "alpha": 1.5}),
    ("nearswap", 1, {"t": 0.0}),
    ("nearswap", 1, {"t": 0.0001}),
    ("nearswap", 1, {"t": 0.01}),
    ("nearswap", 1, {"t": 0.1}),
    ("nearswap", 1, {"t": 2.0}),
    ("arcee_fusion", 1, {}),
]
MASKED = [
    ("dare_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.5]}),
    ("dare_linear", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.2, 1.0, 0.7], "lambda": 0.6}),
    ("dare_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.1], "rescale": False}),
    ("dare_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.9], "normalize": True}),
    ("dare_linear", 3, {"weight": [0.3, -0.7, 0.2], "density": [0.9, 0.6, 0.3], "lambda": 1.4}),
    ("dare_ties", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.5]}),
    ("dare_ties", 3, {"weight": [0.3, 0.7, -1.1], "density": [0.2, 1.0, 0.7], "lambda": 0.6}),
    ("dare_ties", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.5, 0.6, 0.7], "rescale": False}),
    ("dare_ties", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.5, 0.6, 0.7], "normalize": True}),
    ("dare_ties", 2, {"weight": [0.3, 0.7], "density": [0.9, 0.1], "lambda": 1.4}),
    ("della_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.5]}),
    ("della_linear", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.2, 1.0, 0.7], "lambda": 0.6}),
    ("della_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.4], "epsilon": [0.3, 0.01]}),
    ("della_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.6], "rescale": False}),
    ("della_linear", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.6], "normalize": True}),
    ("della", 2, {"weight": [0.3, 0.7], "density": [0.5, 0.5]}),
    ("della", 3, {"weight": [0.3, 0.7, -1.1], "density": [0.2, 1.0, 0.7], "lambda": 0.6}),
    ("della", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.5] * 3, "epsilon": [0.3, 0.2, 0.1]}),
    ("della", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.5, 0.6, 0.7], "rescale": False}),
    ("della", 3, {"weight": [0.3, 0.7, 1.1], "density": [0.5, 0.6, 0.7], "normalize": False}),
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
            if method.startswith("della") and base.numel() == 1:
                continue  # mergekit divides 0 by 0
            name = f"out.{len(calls)}"
            tensors[name] = merge(method, base, models[:n_models], parameters, masks)
            calls.append(
                {
                    "out": name,
                    "method": method,
                    "models": n_models,
                    "parameters": {k: v for k, v in parameters.items() if k != BASE},
                    "base": takes_base(method, parameters),
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
    with_base = takes_base(method, parameters)
    ids = list(range(1, len(models) + 1))
    given = {
        name: dict(zip(ids, value, strict=True)) if isinstance(value, list) else value
        for name, value in parameters.items()
        if name != BASE
    }
    densities = parameters.get("density", [])
    queue = [mask for mask, density in zip(masks, densities, strict=False) if density < 1]
    bernoulli, torch.bernoulli = torch.bernoulli, lambda p: queue.pop(0).to(p.dtype)
    try:
        return merge_tensors(
            [base, *models] if with_base else models,
            method,
            parameters=given,
            ids=[0, *ids] if with_base else ids,
            base_index=0 if with_base else None,
        ).clone()
    finally:
        torch.bernoulli = bernoulli


def takes_base(method, parameters):
    return method not in WITHOUT_BASE and parameters.get(BASE, True)


def statistics():
    """Of methods with mergekit's own masks: one model, weight 1, deltas growing along each row."""
    torch.manual_seed(0)
    density, shape = STATISTICS["density"], STATISTICS["shape"]
    delta = 1 + torch.arange(shape[0] * shape[1]).reshape(shape).float() / 1000
    methods = {}
    for method in ("dare_linear", "della_linear"):
        rows, scales, columns = [], [], torch.zeros(shape[1])
        for _ in range(STATISTICS["repetitions"]):
            merged = merge_tensors(
                [torch.zeros(shape), delta],
                method,
                parameters={"weight": {1: 1.0}, "density": {1: density}},
                ids=[0, 1],
                base_index=0,
            )
            mask = (merged != 0).float()
            rows.append(float(mask.mean()))
            scales.append(float((merged / delta).max()))
            columns += mask.mean(dim=0) / STATISTICS["repetitions"]
        methods[method] = {
            "kept_mean": float(np.mean(rows)),
            "kept_std": float(np.std(rows)),
            "scale_mean": float(np.mean(scales)),
            "scale_std": float(np.std(scales)),
            "kept_by_column": [round(float(column), 6) for column in columns],
        }
    return {**STATISTICS, "methods": methods}


if __name__ == "__main__":
    main()
