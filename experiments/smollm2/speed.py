"""Time candidates on real models: 49,152 tokens, one thread; CPU seconds, interleaved.

python experiments/smollm2/speed.py ZOO OUT.json [ROUNDS]
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation_speed"))
import measure
from measure import measured, ratio

from evomerge.evaluate.tasks.lm_eval_api import stock_model
from evomerge.study.config import StudyConfig
from evomerge.study.phases.anchors import anchors
from evomerge.study.workers import gradient
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Evaluate, Failure, Gradient

WRITTEN = ("sums", "differences", "words")  # tasks whose answers are generated
ITEMS = 16  # of each
CHOICES = 32  # reviews
MEBI = 1 << 20


def main() -> None:
    torch.set_num_threads(1)
    zoo, out = Path(sys.argv[1]), Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    os.chdir(zoo)
    mixed = [*WRITTEN, "reviews"]
    parts: dict[str, Callable[[Path, int], Any]] = {
        "build": build,  # first: it also measures the memory of an evaluator alone
        "gradient": gradients,
        "generation": generation,
        "choices": lambda zoo, rounds: measured(config_of(zoo, ["reviews"]), "smooth", rounds),
        "smooth": lambda zoo, rounds: measured(config_of(zoo, mixed), "smooth", rounds, False),
    }
    measure.PER_TASK, measure.ALONE = ITEMS, CHOICES
    results: dict[str, Any] = {}
    for name, part in parts.items():
        results[name] = part(zoo, rounds)
        print(json.dumps({name: results[name]}), flush=True)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def config_of(zoo: Path, tasks: list[str], study: str = "study.yaml") -> StudyConfig:
    """A study of the zoo, with some of its tasks."""
    config = StudyConfig.from_yaml(zoo / study).to_dict()
    config["evaluate"] = {**config["evaluate"], "tasks": [{"name": name} for name in tasks]}
    return StudyConfig.from_dict(config, zoo)


def generation(zoo: Path, rounds: int) -> dict[str, Any]:
    """A generating candidate against transformers' own `generate`, and lm-eval's loop, on its own.

    `generate` gets all prompts of a task as one batch, stops at the task's stop string, and runs
    on a model that nobody has changed; so does lm-eval.
    """
    evaluator = Evaluator(config_of(zoo, list(WRITTEN)))
    assert not isinstance(evaluator.handle(Describe()), Failure)
    scorer, items = evaluator.scoring.scorer(), {name: list(range(ITEMS)) for name in WRITTEN}
    recipe = next(a.recipe for a in anchors(evaluator.config) if a.name == "uniform average")
    request = Evaluate(recipe.to_dict(), [items], "metric")
    assert not isinstance(evaluator.handle(request), Failure)  # builds it, and warms up
    plain = AutoModelForCausalLM.from_pretrained(zoo / "base", dtype=torch.float32).eval()
    plain.requires_grad_(False)
    plain.load_state_dict(
        evaluator.scoring.models.home.model.state_dict()
    )  # the same weights write as much
    tokenizer = AutoTokenizer.from_pretrained(zoo / "base", padding_side="left")
    stock = stock_model(plain, AutoTokenizer.from_pretrained(zoo / "base"), 64)
    asked = [
        one for name in WRITTEN for i in items[name] for one in scorer.harness.requests(name, i)
    ]

    def generate() -> None:
        for name in WRITTEN:
            requests = [scorer.harness.requests(name, i)[0].args for i in items[name]]
            inputs = tokenizer([text for text, _ in requests], return_tensors="pt", padding=True)
            settings = requests[0][1]
            with torch.inference_mode():
                plain.generate(
                    **inputs,
                    max_new_tokens=settings["max_gen_toks"],
                    do_sample=False,
                    stop_strings=settings["until"],
                    tokenizer=tokenizer,
                )

    calls: dict[str, Callable[[], Any]] = {
        "candidate": lambda: evaluator.handle(request),
        "generate": generate,
        "hflm": lambda: stock.generate_until(asked, disable_tqdm=True),
    }
    times = timed(calls, rounds)
    return {
        "answers": len(asked),
        "candidate_over_generate": ratio(times["candidate"], times["generate"]),
        "hflm_over_candidate": ratio(times["hflm"], times["candidate"]),
        "seconds": {name: round(sorted(each)[len(each) // 2], 3) for name, each in times.items()},
    }


def gradients(zoo: Path, rounds: int) -> dict[str, Any]:
    """A gradient over few items of each task, of adapters: by their factors, and by all weights."""
    tasks = [*WRITTEN, "reviews"]
    evaluator = Evaluator(config_of(zoo, tasks, "adapters.yaml"))
    assert not isinstance(evaluator.handle(Describe()), Failure)
    items = {name: list(range(ITEMS // 4)) for name in tasks}
    recipe = next(a.recipe for a in anchors(evaluator.config) if a.name == "task arithmetic λ=0.5")
    document = recipe.to_dict()
    asked = Gradient(document, items, "answers", dict.fromkeys(tasks, 1 / ITEMS))

    def by_all_weights() -> None:
        factored = gradient.low_rank_changes
        gradient.low_rank_changes = lambda *_: None
        try:
            assert not isinstance(evaluator.handle(asked), Failure)
        finally:
            gradient.low_rank_changes = factored

    calls: dict[str, Callable[[], Any]] = {
        "scores": lambda: evaluator.handle(Evaluate(document, [items], "smooth")),
        "by factors": lambda: evaluator.handle(asked),
        "by all weights": by_all_weights,
    }
    times = timed(calls, rounds)
    return {
        "items": sum(map(len, items.values())),
        "factors_over_scores": ratio(times["by factors"], times["scores"]),
        "all_weights_over_scores": ratio(times["by all weights"], times["scores"]),
        "seconds": {name: round(sorted(each)[len(each) // 2], 3) for name, each in times.items()},
    }


def build(zoo: Path, rounds: int) -> dict[str, Any]:
    """CPU seconds of a candidate's weights, by method, into the live model."""
    evaluator = Evaluator(config_of(zoo, ["reviews"]))
    assert not isinstance(evaluator.handle(Describe()), Failure)
    recipes = {a.name: a.recipe.to_dict() for a in anchors(evaluator.config)}
    names = ("uniform average", "task arithmetic λ=0.5", "TIES density=0.5", "Model Stock")
    one = {"reviews": [0]}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            began = time.process_time()
            answer = evaluator.handle(Evaluate(recipes[name], [one], "smooth"))
            assert not isinstance(answer, Failure), answer
            spent = time.process_time() - began
            began = time.process_time()
            evaluator.handle(Evaluate(recipes[name], [one], "smooth"))  # without building
            if number:
                seconds[name].append(spent - (time.process_time() - began))
    medians = {name: round(sorted(each)[len(each) // 2], 3) for name, each in seconds.items()}
    return {"seconds": medians, **memory(evaluator)}


def memory(evaluator: Evaluator) -> dict[str, float]:
    """Proportional set size of this process, and of the weights that it has at hand, in MiB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    live = {
        t.data_ptr(): t.nbytes for t in evaluator.scoring.models.home.model.state_dict().values()
    }
    files = {file for one in evaluator.parents.checkpoints.values() for file in one.store.files}
    weights = sum(live.values()) + sum(f.stat().st_size for f in files if f.suffix != ".json")
    return {"pss_mib": round(pss / 1024), "weights_mib": round(weights / MEBI)}


def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call in each round; the calls of a round follow each other."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):  # the first round warms up
        for name, call in calls.items():
            began = time.process_time()
            call()
            if number >= 0:
                times[name].append(time.process_time() - began)
    return times


if __name__ == "__main__":
    main()
