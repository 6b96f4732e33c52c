"""Time a generation of candidates side by side and one by one; CPU seconds, interleaved.

python experiments/adapters_together/measure.py ZOO OUT.json [ROUNDS CANDIDATES ADAPTERS RANK]
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from evomerge.study.config import StudyConfig
from evomerge.study.context import study_space
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import (
    Evaluate,
    EvaluateTogether,
    Scores,
    ScoresTogether,
    Suited,
    SuitTogether,
)

ITEMS: list[dict[str, list[int]]] = [
    {"sums": [0, 1, 2, 3]},
    {"reviews": list(range(6))},
    {"sums": list(range(6)), "words": list(range(6))},
    {"reviews": list(range(24))},
    {"prose": list(range(6))},
]


def main() -> None:
    torch.set_num_threads(1)
    zoo, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    numbers = [int(number) for number in sys.argv[3:]]
    rounds, candidates, adapters, rank = [*numbers, *[3, 16, 4, 16][len(numbers) :]]
    os.chdir(zoo)
    folders = [make_adapter(zoo, seed, rank) for seed in range(adapters)]
    worker = Evaluator(study(zoo, folders))
    space, draw = study_space(worker.config), random.Random(0)
    recipes = [
        space.fill([draw.uniform(d.low or 0.0, d.high or 1.0) for d in space.dimensions]).to_dict()
        for _ in range(candidates)
    ]
    results = []
    for items in ITEMS:
        results.append(compared(worker, recipes, items, rounds))
        print(json.dumps(results[-1]), flush=True)
    about = {"candidates": candidates, "adapters": adapters, "rank": rank, "rounds": rounds}
    out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n", encoding="utf-8")


def compared(
    worker: Evaluator, recipes: list[dict[str, Any]], items: dict[str, list[int]], rounds: int
) -> dict[str, Any]:
    """Ratio of both ways' CPU seconds a candidate; a quarter of the candidates is built."""
    few = recipes[: max(1, len(recipes) // 4)]
    suited = worker.handle(SuitTogether(recipes[0], items, "smooth"))
    assert isinstance(suited, Suited), suited
    ratios, seconds, apart = [], [], 0.0
    for _ in range(rounds):
        began = time.process_time()
        built = [worker.handle(Evaluate(recipe, [items], "smooth")) for recipe in few]
        by_one = (time.process_time() - began) / len(few)
        began = time.process_time()
        together = worker.handle(EvaluateTogether(recipes, items, "smooth"))
        beside = (time.process_time() - began) / len(recipes)
        assert isinstance(together, ScoresTogether), together
        assert not together.apart, together
        rows = iter(together.rows)
        for one in built:
            assert isinstance(one, Scores), one
            apart = max(apart, *(abs(row[3] - next(rows)[3]) for row in one.rows))
        ratios.append(by_one / beside)
        seconds.append((by_one, beside))
    return {
        "items": {task: len(ids) for task, ids in items.items()},
        "tokens": worker.scoring.scorer().tokens(items, "smooth"),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "seconds_one_by_one": round(statistics.median(a for a, _ in seconds), 3),
        "seconds_together": round(statistics.median(b for _, b in seconds), 3),
        "largest_difference_of_scores": round(apart, 5),
        "a_study_would": suited.why_not or "score them together",
    }


def study(zoo: Path, folders: list[str]) -> StudyConfig:
    """The zoo's study with these adapters, scored in float32 as they are."""
    names = ("sums", "words", "reviews")
    document = {
        "base_model": "base",
        "models": [{"model": "base", "adapter": folder} for folder in folders],
        "space": "task_arithmetic_by_component",
        "evaluate": {
            "tasks": [*names, {"name": "prose", "text": "prose.txt", "chunk_bytes": 300}],
            "include_path": ["tasks"],
            "dtype": "float32",
        },
        "workers": {"device": "cpu"},
        "output": {"dtype": "float32"},
    }
    return StudyConfig.from_dict(document, zoo)


def make_adapter(zoo: Path, seed: int, rank: int) -> str:
    """Write a random adapter on the five kinds of layers that the zoo's experts train."""
    folder = zoo / "adapters" / f"random-{seed}-rank-{rank}"
    if (folder / "adapter_config.json").is_file():
        return str(folder)
    config = AutoConfig.from_pretrained(zoo / "base")
    hidden, inner = config.hidden_size, config.intermediate_size
    keys = hidden // config.num_attention_heads * config.num_key_value_heads
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    draw, tensors = torch.Generator().manual_seed(seed), {}
    for layer in range(config.num_hidden_layers):
        for name, (inputs, outputs) in shapes.items():
            path = f"base_model.model.model.layers.{layer}.{name}"
            first = torch.randn(rank, inputs, generator=draw) / inputs**0.5
            tensors[f"{path}.lora_A.weight"] = first
            tensors[f"{path}.lora_B.weight"] = 0.01 * torch.randn(outputs, rank, generator=draw)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "base_model_name_or_path": "base"}
    targets = [name.split(".")[1] for name in shapes]
    text = json.dumps({**about, "target_modules": targets})
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return str(folder)


if __name__ == "__main__":
    main()
