"""Measures merging against a memory copy, and against mergekit where MERGEKIT_PYTHON is set.

Rounds interleave what is compared, on one thread; ratios are medians over rounds, of CPU seconds.
"""

import gc
import json
import math
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from evomerge.merge.build import fill
from evomerge.merge.kernels.blocked import BlockedKernels
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe

ROUNDS = 9
NAMES = ("base", "a", "b", "c")


def shapes(layers, hidden=768, inner=2048, vocabulary=32_000):
    """A Llama without biases; 134 M parameters with 12 layers."""
    shapes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    for layer in range(layers):
        start = f"model.layers.{layer}."
        for part in "qkvo":
            shapes[f"{start}self_attn.{part}_proj.weight"] = (hidden, hidden)
        for part, shape in (("gate", (inner, hidden)), ("up", (inner, hidden))):
            shapes[f"{start}mlp.{part}_proj.weight"] = shape
        shapes[f"{start}mlp.down_proj.weight"] = (hidden, inner)
        for part in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{start}{part}.weight"] = (hidden,)
    return shapes


def make_models(folder, named_shapes, **config):
    """A base and three fine-tunes of random numbers, bfloat16."""
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "num_hidden_layers": 12,
        "vocab_size": 32_000,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **config,
    }
    for number, model in enumerate(NAMES):
        (folder / model).mkdir(parents=True)
        (folder / model / "config.json").write_text(json.dumps(settings))
        tensors = {}
        for index, (name, shape) in enumerate(named_shapes.items()):
            draw = torch.Generator().manual_seed(index)
            tensor = 0.02 * torch.randn(shape, generator=draw)
            if number:
                draw.manual_seed(1000 * number + index)
                tensor += 0.002 * torch.randn(shape, generator=draw)
            tensors[name] = tensor.bfloat16()
        save_file(tensors, folder / model / "model.safetensors", metadata={"format": "pt"})


def recipe(folder, method, seed):
    draw = random.Random(f"{method} {seed}")
    models = []
    for name in NAMES[1:]:
        parameters = {"weight": draw.uniform(0.2, 0.9)}
        if method != "linear":
            parameters["density"] = draw.uniform(0.2, 0.8)
        models.append({"model": str(folder / name), "parameters": parameters})
    document = {"merge_method": method, "models": models, "out_dtype": "bfloat16"}
    if method != "linear":
        document["base_model"] = str(folder / "base")
    return Recipe.from_dict(document)


class Live(torch.nn.Module):
    """Parameters under a checkpoint's names: what a candidate is written into."""

    def __init__(self, named_shapes):
        super().__init__()
        self.tensors = {n: torch.zeros(s, dtype=torch.bfloat16) for n, s in named_shapes.items()}

    def state_dict(self, **_):
        return self.tensors


def seconds(action, *arguments):
    """CPU seconds of this process: what others do on the machine counts little."""
    began = time.process_time()
    action(*arguments)
    return time.process_time() - began


def candidate(live, parents, folder, method, seed):
    """Everything that a trial's build does, the plan included."""
    wanted = recipe(folder, method, seed)
    fill(live, plan(wanted, parents.checkpoints), parents)


def copier(n_bytes):
    """A copy that moves so many bytes, half of them read and half written."""
    source = torch.ones(n_bytes // 2, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def pss():
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def ratios(folder, named_shapes):
    """Candidates against copies of the bytes that they read and write."""
    parameters = sum(map(math.prod, named_shapes.values()))
    parents = Parents([str(folder / name) for name in NAMES])
    compiled, blocked = parents.kernels, BlockedKernels()
    live = Live(named_shapes)
    cold = {}
    for method in ("linear", "ties"):  # pages are read, statistics made
        cold[method] = seconds(candidate, live, parents, folder, method, 0)
    fresh = Parents([str(folder / name) for name in NAMES])
    warm_disk = seconds(candidate, live, fresh, folder, "ties", 0)
    del fresh
    copies = {"linear": copier(8 * parameters), "ties": copier(10 * parameters)}
    ratios = {f"{m} {k}": [] for m in copies for k in ("compiled", "blocked")}
    times = {key: [] for key in [*ratios, "copy"]}
    for number in range(ROUNDS):
        for method, copy in copies.items():
            floor = seconds(copy)
            if method == "ties":
                times["copy"].append(floor)
            for name, kernels in (("compiled", compiled), ("blocked", blocked)):
                if name == "blocked" and number % 4:
                    continue
                parents.kernels = kernels
                took = seconds(candidate, live, parents, folder, method, number)
                ratios[f"{method} {name}"].append(took / floor)
                times[f"{method} {name}"].append(took)
    return {
        "parameters": parameters,
        "tensors": len(named_shapes),
        "kernels": type(compiled).__name__,
        "first_candidate_seconds": cold,
        "first_ties_candidate_with_rankings_on_disk_seconds": warm_disk,
        "times_the_copy": {k: [median(v), min(v), max(v)] for k, v in ratios.items()},
        "seconds": {key: median(values) for key, values in times.items()},
        "copy_gb_per_second": 10 * parameters / median(times["copy"]) / 1e9,
    }


def dynamo_frames():
    """Count torch's compilations; it is not asked to import its compiler, which takes memory."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return sum(dynamo.counters["frames"].values()) if dynamo else 0


def hundred(folder, named_shapes):
    """100 candidates: what is compiled on the way, and the most memory used."""
    highest, ended = [pss()], threading.Event()
    before, start = dynamo_frames(), highest[0]

    def watch():
        while not ended.wait(0.02):
            highest[0] = max(highest[0], pss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    parents = Parents([str(folder / name) for name in NAMES])
    live = Live(named_shapes)
    libraries = set(Path(os.environ["EVOMERGE_CACHE"], "kernels").glob("*.so"))
    for number in range(100):
        candidate(live, parents, folder, ("ties", "dare_ties", "linear")[number % 3], number)
    ended.set()
    watcher.join()
    parameters = sum(map(math.prod, named_shapes.values()))
    whole = 2 * parameters * (len(NAMES) + 1)
    made = set(Path(os.environ["EVOMERGE_CACHE"], "kernels").glob("*.so")) - libraries
    return {
        "dynamo_frames": dynamo_frames() - before,
        "libraries_compiled_on_the_way": len(made),
        "peak_pss_bytes": highest[0],
        "pss_bytes_before": start,
        "parents_and_candidate_bytes": whole,
        "allowed_bytes": 1.05 * whole + 256 * 2**20,
    }


def timed(folder, named_shapes, method, rounds=7):
    make_models(folder, named_shapes)
    parents = Parents([str(folder / name) for name in NAMES])
    live = Live(named_shapes)
    candidate(live, parents, folder, method, 0)
    runs = range(rounds)
    return median(seconds(candidate, live, parents, folder, method, n) for n in runs)


def slope(folder):
    """Log-log slope of a TIES candidate's time against the number of parameters."""
    points = []
    for layers, vocabulary in ((1, 2_000), (2, 8_000), (6, 16_000), (12, 32_000)):
        named_shapes = shapes(layers, vocabulary=vocabulary)
        took = timed(folder / f"slope-{layers}", named_shapes, "ties")
        points.append((sum(map(math.prod, named_shapes.values())), took))
    x, y = ([math.log(point[i]) for point in points] for i in (0, 1))
    middle = sum(x) / len(x), sum(y) / len(y)
    rise = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y, strict=True))
    return {"points": points, "slope": rise / sum((a - middle[0]) ** 2 for a in x)}


def per_tensor(folder):
    """The same 6 M parameters in 3,000 tensors and in 10, the plan included."""
    microseconds = {}
    for method in ("linear", "ties"):
        many = {f"model.layers.{i % 12}.mlp.part{i}.weight": (2048,) for i in range(3000)}
        few = {f"model.layers.{i}.mlp.part.weight": (300, 2048) for i in range(10)}
        spent = [
            timed(folder / f"{method}-{len(kind)}", kind, method, rounds=9) for kind in (many, few)
        ]
        microseconds[method] = (spent[0] - spent[1]) / (3000 - 10) * 1e6
    return microseconds


def mergekit(folder):
    """One mergekit-yaml call for a TIES candidate of the same models, and one that does nothing."""
    python = os.environ.get("MERGEKIT_PYTHON")
    if not python:
        return None
    config = recipe(folder, "ties", 0).to_yaml()
    (folder / "ties.yaml").write_text(config)
    command = str(Path(python).with_name("mergekit-yaml"))
    merging = [command, str(folder / "ties.yaml"), str(folder / "merged"), "--no-copy-tokenizer"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        subprocess.run(arguments, env=environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"seconds": time.perf_counter() - began, "cpu_seconds": cpu}

    return {"ties": run(merging), "help": run([command, "--help"])}


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["EVOMERGE_CACHE"] = str(Path(scratch, "cache"))
        folder = Path(scratch, "models")
        named_shapes = shapes(12)
        make_models(folder, named_shapes)
        gc.collect()
        result = {"ratios": ratios(folder, named_shapes)}
        gc.collect()
        result["mergekit 0.1.5"] = mergekit(folder)
        result["hundred_candidates"] = json.loads(
            subprocess.run(
                [sys.executable, __file__, "--hundred", str(folder)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        result["per_tensor_microseconds"] = per_tensor(Path(scratch, "tensors"))
        result["slope"] = slope(Path(scratch, "sizes"))
    if result["mergekit 0.1.5"]:
        theirs, ours = result["mergekit 0.1.5"]["ties"], result["ratios"]["seconds"]
        faster = theirs["cpu_seconds"] / ours["ties compiled"]
        result["times_faster_than_mergekit_yaml"] = faster
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    result["machine"] = {
        "processor": next(line.partition(": ")[2] for line in lines if "model name" in line),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    Path(__file__).with_name("result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hundred"]:
        torch.set_num_threads(1)
        print(json.dumps(hundred(Path(sys.argv[2]), shapes(12))))
    else:
        main()
