"""Time candidates, their bare forward passes and lm-eval's own model on the same items.

Time is CPU time of the one thread, so that other programs on the machine count little.

python experiments/evaluation_speed/measure.py zoo DEMO_DIR OUT.json
python experiments/evaluation_speed/measure.py large FOLDER OUT.json    (FOLDER is made)

A third argument, ROUNDS, takes the place of the number of rounds that each part has.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from large import make

from evomerge.evaluate.generation.decode import Decoder
from evomerge.evaluate.generation.generation import TextGenerator
from evomerge.evaluate.likelihood import packing
from evomerge.evaluate.likelihood.attention import (
    max_packed_length,
    model_arguments,
    prefix_cache,
)
from evomerge.evaluate.likelihood.batches import Batch, make_batches, model_input
from evomerge.evaluate.likelihood.context_cache import (
    ContextCacheSupport,
    context_cache_arguments,
    context_cache_support,
)
from evomerge.evaluate.likelihood.likelihood import Forward
from evomerge.evaluate.model import load_tokenizer
from evomerge.evaluate.scoring.plan import make_plan
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.lm_eval_api import stock_model
from evomerge.evaluate.token_requests import Pair
from evomerge.study.config import StudyConfig
from evomerge.study.phases.anchors import anchors
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.requests import Describe, Evaluate, Failure

SKILLS = ("reverse", "sort", "max", "ja", "ja_reverse", "ja_sort", "ja_max")
PER_TASK = 48  # items, as a generation of the demo has them
ALONE: int | None = None  # items of a task that is alone; all


def zoo(demo: Path, rounds: int = 9) -> dict[str, Any]:
    """The demo's tasks in their three forms, on its models of 0.3 M parameters."""
    home = demo / "zoo"
    models = [home / f"expert-{name}" for name in ("reverse", "sort", "max", "ja")]
    single = [name for name in SKILLS if (home / "tasks" / f"demo_{name}_mc.yaml").is_file()]
    sets = {
        "generation, smooth": ([f"demo_{name}" for name in SKILLS], "smooth"),
        "likelihood, metric": ([f"demo_{name}_ll" for name in SKILLS], "metric"),
        "choice, smooth": ([f"demo_{name}_mc" for name in single], "smooth"),
    }
    return {
        name: measured(study(home / "base", models, home / "tasks", tasks), mode, rounds)
        for name, (tasks, mode) in sets.items()
    }


def large(folder: Path, rounds: int = 3) -> dict[str, Any]:
    """Multiple choice on models of 27 M parameters: without and with five examples, and on Bloom.

    Bloom takes no block mask: contexts are read once for their choices, each choice a row.
    """
    results = {}
    for name, architecture, task, hflm in (
        ("choice, smooth", "llama", "large_choice", True),
        ("choice with 5 examples, smooth", "llama", "large_shots", False),
        ("choice on Bloom, smooth", "bloom", "large_choice", True),
    ):
        home = folder / architecture
        if not home.exists():
            home.mkdir(parents=True)
            make(home, architecture)
        config = study(home / "base", [home / "one", home / "two"], home / "tasks", [task])
        results[name] = measured(config, "smooth", rounds, hflm)
        print(json.dumps(results), flush=True)
    return results


def study(base: Path, models: Sequence[Path], tasks: Path, names: Sequence[str]) -> StudyConfig:
    document = {
        "base_model": str(base),
        "models": [str(model) for model in models],
        "space": "task_arithmetic_by_depth",
        "evaluate": {"tasks": list(names), "include_path": [str(tasks)]},
        "output": {"dtype": "float32"},
        "workers": {"device": "cpu"},
    }
    return StudyConfig.from_dict(document, Path.cwd())


def measured(config: StudyConfig, mode: Any, rounds: int, hflm: bool = True) -> dict[str, Any]:
    evaluator = Evaluator(config)
    description = evaluator.handle(Describe())
    assert not isinstance(description, Failure), description
    known = description.evaluation["items"]
    items = {task: ids[: PER_TASK if len(known) > 1 else ALONE] for task, ids in known.items()}
    recipes = [a.recipe.to_dict() for a in anchors(config) if "task arithmetic" in a.name]
    scorer = evaluator.scoring.scorer()
    model, tokenizer = evaluator.scoring.models.home.model, load_tokenizer(Path(config.base_model))
    stock = stock_model(model, tokenizer, scorer.batch_size)
    encoder = Encoder(stock, scorer.harness)
    longest = max_packed_length(model)
    no_cache = ContextCacheSupport()
    support = no_cache if longest else context_cache_support(model)
    decoder = Decoder(model, tokenizer, scorer.batch_size, longest)
    generation = TextGenerator(stock, encoder, decoder, lambda _: None)

    def batches(
        pairs: Sequence[Pair], longest: int = longest, support: ContextCacheSupport = support
    ) -> list[Batch]:
        vocabulary, width = model.config.vocab_size, model.config.hidden_size
        limits = (scorer.batch_size, stock.max_length, model.device, longest)
        return make_batches(pairs, *limits, vocabulary, width, support)

    chosen = tuple((task, i) for task, ids in items.items() for i in ids)
    plan = make_plan(chosen, mode, scorer.harness, encoder, batches, generation)
    forward = bare_forward(model, plan.batches)
    likelihoods = Forward(model)

    def candidate(number: int) -> None:
        answer = evaluator.handle(Evaluate(recipes[number % len(recipes)], [items], mode))
        assert not isinstance(answer, Failure), answer

    calls: dict[str, Callable[[int], Any]] = {
        "candidate": candidate,
        "forward": lambda _: forward(),
        "ours": lambda _: scorer.score(items, mode),
    }
    choosing = all(description.evaluation["output_types"][t] == "multiple_choice" for t in items)
    if hflm and choosing:
        asked = [
            one for t, ids in items.items() for i in ids for one in scorer.harness.requests(t, i)
        ]
        tokens = [(one.args, list(p.context), list(p.continuation)) for one in asked
                  for p in encoder.pairs(("", 0), one)]  # fmt: skip
        calls["hflm"] = lambda _: stock.loglikelihood(asked, disable_tqdm=True)
        calls["hflm_tokens"] = lambda _: stock._loglikelihood_tokens(tokens, disable_tqdm=True)
    if any(batch.prefix for batch in plan.batches):
        whole = packing.prefix_groups
        packing.prefix_groups = lambda groups, _: [((), list(groups))]
        unshared = batches(plan.pairs)
        packing.prefix_groups = whole
        calls["unshared"] = lambda _: likelihoods(unshared, plan.pairs)
    if any(batch.contexts is not None for batch in plan.batches):
        plain_rows = batches(plan.pairs, support=no_cache)
        calls["plain"] = lambda _: likelihoods(plain_rows, plan.pairs)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):  # the first round warms up
        for name, call in calls.items():
            if number < 0 and name in ("hflm", "unshared", "plain"):
                continue
            began = time.process_time()
            call(number)
            if number >= 0:
                times[name].append(time.process_time() - began)
    inputs = {model_input(pair, stock.max_length) for pair in plan.pairs}
    minimum = len({tokens[:n] for tokens in inputs for n in range(1, len(tokens) + 1)})
    spent = sum(b.inputs.numel() for b in plan.batches)
    spent += sum(len(prefix) for prefix in {b.prefix for b in plan.batches})
    spent += sum(b.contexts.tokens.numel() for b in plan.batches if b.contexts is not None)
    plain = sum(batch.inputs.numel() for batch in batches(plan.pairs, 0, no_cache))
    figures: dict[str, Any] = {
        "parameters": description.parameters,
        "items": sum(map(len, items.values())),
        "candidate_over_forward": ratio(times["candidate"], times["forward"]),
        "score_over_forward": ratio(times["ours"], times["forward"]),
        "tokens_over_minimum": round(spent / minimum, 3),
        "plain_tokens_over_minimum": round(plain / minimum, 3),
        "prefixes": sorted({len(batch.prefix) for batch in plan.batches}),
        "seconds": {
            name: round(statistics.median(times[name]), 4)
            for name in ("candidate", "ours", "forward")
        },
    }
    if "unshared" in times:
        figures["without_prefix_over_with"] = ratio(times["unshared"], times["ours"])
    if "plain" in times:
        figures["plain_over_ours"] = ratio(times["plain"], times["ours"])
    if "hflm" in times:
        figures["hflm_over_ours"] = ratio(times["hflm"], times["ours"])
        figures["hflm_tokens_over_ours"] = ratio(times["hflm_tokens"], times["ours"])
    return figures


def bare_forward(model: Any, batches: Sequence[Batch]) -> Callable[[], None]:
    """The model on the batches, logits at the same places, everything else made beforehand."""
    wanted: list[Any] = [None]

    def keep(_: Any, arguments: tuple[Any, ...]) -> Any:
        rows, columns = wanted[0]
        return None if rows is None else (arguments[0][rows, columns].unsqueeze(0),)

    given = []
    with torch.inference_mode():
        for batch in batches:
            prefix = torch.tensor(batch.prefix)
            cache = prefix_cache(model, prefix) if batch.prefix else None
            arguments = {}
            if batch.depths is not None and batch.last is not None:
                arguments = model_arguments(model, batch.depths, batch.last, cache)
            given.append((batch, prefix, arguments, cache))

    def forward() -> None:
        hook = model.get_output_embeddings().register_forward_pre_hook(keep)
        before: tuple[int, ...] = ()
        with torch.inference_mode():
            for batch, prefix, arguments, cache in given:
                if batch.prefix != before:
                    wanted[0], before = (None, None), batch.prefix
                    if before:
                        prefix_cache(model, prefix)
                wanted[0] = (None, None)
                if batch.contexts is not None:
                    length = batch.inputs.shape[1]
                    arguments = context_cache_arguments(model, batch.contexts, length, cache)
                wanted[0] = (batch.rows, batch.columns)
                cached = bool(batch.prefix) or batch.contexts is not None
                model(input_ids=batch.inputs, use_cache=cached, **arguments)
        hook.remove()

    return forward


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "median": round(statistics.median(each), 3),
        "min": round(min(each), 3),
        "max": round(max(each), 3),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    part, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    results = {"zoo": zoo, "large": large}[part](folder, *map(int, sys.argv[4:]))
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
