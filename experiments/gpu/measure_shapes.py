"""Time candidates of one shape on this machine's GPU, or its CPU; add a line to a result file.

python experiments/gpu/measure_shapes.py SHAPE FOLDER RESULT.json

Build: the bytes of base, three parents and the result, over those of a copy on the same device.
Canary: a recipe scored again after another has to score as before, and the other otherwise; its
answers likewise, by transformers and by vLLM where that is installed. Builds are timed with parents
on the device, and with parents in main memory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.recipe.recipe import Recipe
from evomerge.study.config import StudyConfig
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import (
    Describe,
    Description,
    Evaluate,
    Export,
    Exported,
    Scores,
    Show,
    Shown,
)

SHAPES = {  # hidden, inner, layers, heads, heads of keys, vocabulary
    "tiny": (64, 128, 2, 4, 2, 512),
    "0.5B": (896, 4864, 24, 14, 2, 151_936),
    "3B": (2048, 11_008, 36, 16, 2, 151_936),
    "7.6B": (3584, 18_944, 28, 28, 4, 152_064),
}
PARENTS, ROUNDS = 3, 5 if torch.cuda.is_available() else 2
ITEMS = 48 if torch.cuda.is_available() else 4
TOKENS = 256 if torch.cuda.is_available() else 8
WORDS = [f"w{i}" for i in range(200)]


def main() -> None:
    shape, folder, out = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    make_zoo(folder, SHAPES[shape], device)
    os.chdir(folder)
    result: dict[str, Any] = {"shape": shape, "device": device, "torch": torch.__version__}
    if device == "cuda":
        result["card"] = torch.cuda.get_device_name()
    worker = Evaluator(study(folder, device))
    described = worker.handle(Describe())
    assert isinstance(described, Description), described
    result["parameters"] = described.parameters
    for method in ("linear", "task_arithmetic", "ties", "dare_ties"):
        result[method] = timed(worker, method, device, described.parameters)
        print(json.dumps({method: result[method]}), flush=True)
    result["canary"] = canary(worker)
    result["generation"] = generation(worker)
    result["export_is_what_was_scored"] = exported(worker, folder)
    if described.parameters < 1e9:
        result["digest_is_that_of_the_cpu"] = digest(worker) == digest(
            Evaluator(study(folder, "cpu"))
        )
    if device == "cuda":
        result["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    del worker
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        host = Evaluator(study(folder, device, parents="host"))
        result["parents_in_main_memory"] = timed(host, "ties", device, described.parameters)
        result["peak_gb_then"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        del host
        torch.cuda.empty_cache()
    if importlib.util.find_spec("vllm") is None:
        result["vllm"] = "not installed here: skipped"
    else:
        options = {"gpu_memory_utilization": 0.4} if device == "cuda" else {}
        result["vllm"] = generation(Evaluator(study(folder, device, "vllm", options)))
    print(json.dumps({name: result[name] for name in ("generation", "vllm")}), flush=True)
    lines = json.loads(out.read_text()) if out.is_file() else []
    lines = [line for line in lines if (line["shape"], line["device"]) != (shape, device)]
    out.write_text(json.dumps([*lines, result], indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def timed(worker: Evaluator, method: str, device: str, parameters: int) -> dict[str, Any]:
    """Median seconds of building and of the forward pass; the first candidate warms up."""
    answers = [score(worker, recipe(worker, method, seed)) for seed in range(ROUNDS + 1)][1:]
    build = statistics.median(answer.seconds["build"] for answer in answers)
    forward = statistics.median(answer.seconds["forward"] for answer in answers)
    total = statistics.median(answer.seconds["total"] for answer in answers)
    moved = 2 * parameters * (PARENTS + 2)  # bfloat16: all parents and the base read, one written
    return {
        "build_seconds": round(build, 4),
        "forward_seconds": round(forward, 4),
        "candidate_over_forward": round(total / forward, 2),
        "build_over_copy": round(build / (moved / bandwidth(device)), 2),
    }


def bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.empty(1 << 28 if device == "cuda" else 1 << 24, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return 2 * source.nbytes / min(seconds)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def canary(worker: Evaluator) -> bool:
    """Return whether scores follow the weights: same for the same, others for others."""
    first, second = recipe(worker, "linear", 0), recipe(worker, "task_arithmetic", 9)
    before, other, again = (score(worker, one).rows for one in (first, second, first))
    return list(before) == list(again) and list(before) != list(other)


def generation(worker: Evaluator) -> dict[str, Any]:
    """Seconds of a candidate's answers, and whether they follow the weights there and back."""
    first, second = recipe(worker, "linear", 0), recipe(worker, "task_arithmetic", 9)
    texts = []
    for one in (first, second, first):
        shown = worker.handle(Show(one, ANSWERS_ASKED))
        assert isinstance(shown, Shown), shown
        texts.append([row[2] for row in shown.written])
    seconds = []
    for seed in range(ROUNDS):
        answer = worker.handle(Evaluate(recipe(worker, "linear", seed), [ANSWERS_ASKED], "metric"))
        assert isinstance(answer, Scores), answer
        seconds.append(answer.seconds["total"])
    return {
        "canary": texts[0] == texts[2] != texts[1],
        "answers": ITEMS,
        "tokens_each": TOKENS,
        "candidate_seconds": round(statistics.median(seconds), 3),
    }


def exported(worker: Evaluator, folder: Path) -> bool:
    """Return whether the written folder has the weights that were scored, by their digests."""
    one, out = recipe(worker, "ties", 3), folder / "out"
    scored = worker.handle(Evaluate(one, [ITEMS_ASKED], "smooth", digest=True))
    written = worker.handle(Export(one, str(out)))
    assert isinstance(scored, Scores), scored
    assert isinstance(written, Exported), written
    shutil.rmtree(out)
    return scored.weights_digest == written.weights_digest


def digest(worker: Evaluator) -> str | None:
    """The digest of a TIES merge's weights in the live model."""
    answer = worker.handle(
        Evaluate(recipe(worker, "ties", 3), [ITEMS_ASKED], "smooth", digest=True)
    )
    assert isinstance(answer, Scores), answer
    return answer.weights_digest


ANSWERS_ASKED = {"write": list(range(ITEMS))}
ITEMS_ASKED = {"choices": list(range(ITEMS))}


def score(worker: Evaluator, document: dict[str, Any]) -> Scores:
    answer = worker.handle(Evaluate(document, [ITEMS_ASKED], "smooth"))
    assert isinstance(answer, Scores), answer
    return answer


def recipe(worker: Evaluator, method: str, seed: int) -> dict[str, Any]:
    """A merge of the three parents with random weights."""
    draw = random.Random(f"{method} {seed}")
    extra = {"density": 0.5} if "ties" in method else {}
    entries = [
        {"model": model, "parameters": {"weight": draw.uniform(0.2, 0.8), **extra}}
        for model in worker.config.models
    ]
    document = {"merge_method": method, "models": entries, "dtype": "bfloat16", "seed": seed}
    base = {} if method == "linear" else {"base_model": worker.config.base_model}
    return Recipe.from_dict({**document, **base}).to_dict()


def study(
    folder: Path,
    device: str,
    engine: str = "hf",
    options: Mapping[str, Any] | None = None,
    parents: str | None = "device",
) -> StudyConfig:
    document = {
        "base_model": "base",
        "models": [f"parent-{i}" for i in range(PARENTS)],
        "space": "task_arithmetic_by_component",
        "evaluate": {
            "tasks": ["choices", "write"],
            "engine": engine,
            "engine_options": dict(options or {}),
            "include_path": ["tasks"],
            # most processors have no arithmetic in bfloat16; weights are rounded to it all the same
            "dtype": "bfloat16" if torch.cuda.is_available() else "float32",
        },
        "workers": {
            "parents": parents,
            "device": device,
            "threads": 1 if device == "cpu" else os.cpu_count() or 1,
        },
        "output": {"dtype": "bfloat16"},
    }
    return StudyConfig.from_dict(document, folder)


def make_zoo(folder: Path, shape: tuple[int, ...], device: str) -> None:
    """Write a base and parents about it, random, and a task of four choices after 100 words."""
    hidden, inner, layers, heads, key_heads, vocabulary = shape
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
    )
    ids = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *WORDS])}
    rules = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    for name in ("base", *(f"parent-{i}" for i in range(PARENTS))):
        if name != "base":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.002 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    del model
    draw = random.Random(0)
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    rows = [
        {
            "prompt": " ".join(draw.choices(WORDS, k=100)),
            "choices": [" ".join(draw.choices(WORDS, k=10)) for _ in range(4)],
            "gold": draw.randrange(4),
        }
        for _ in range(96)
    ]
    data = tasks / "choices.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = (
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
        'test_split: test\ndoc_to_text: "{{prompt}}"\nmetadata: {version: 1.0}\n'
    )
    (tasks / "write.yaml").write_text(
        f"task: write\n{common}output_type: generate_until\ndoc_to_target: w0\n"
        f'generation_kwargs: {{until: ["<eos>"], max_gen_toks: {TOKENS}, do_sample: false}}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    (tasks / "choices.yaml").write_text(
        f"task: choices\n{common}output_type: multiple_choice\n"
        'doc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
