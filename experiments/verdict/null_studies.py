"""How often whole studies of real models announce an improvement or find none.

    python experiments/verdict/null_studies.py ZOO WORK [STUDIES]

ZOO is the demo's (`evomerge demo` leaves one, with its tasks). T is its merge after 30 steps along
gradients. The null zoo is T as the base and three copies of it with independent noise: nothing is
better than T but by chance. A zoo with something to find is four copies with noise, of which that
of two cancels at weights .6 and .2: there T comes nearly back, which beats all that it is compared
with by as much as the noise costs; noise is as large as makes that about 2 and 5 points.

Real: models, merges, scorer, optimizer (the product's choice), study, journal, race, verdict.
Replayed: each recipe of the grid and each anchor is scored once, on all 3,584 documents, and
studies look that up. Each study draws half of the documents and splits and searches them by its
seed. What is true of a recipe is its mean over all 3,584; a verdict is false if it shows an
improvement of a recipe that is not better than each of its rivals there. WORK keeps scores and
studies; the command resumes. The table goes to stdout and to result.json, with intervals of Clopper
and Pearson.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from scipy.stats import beta

from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal import journal as journal_module
from evomerge.study.study import Study
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.pool import Pool, Reply
from evomerge.study.workers.requests import (
    Describe,
    Description,
    Evaluate,
    Request,
    Scores,
)
from evomerge.study.workers.start import start

SKILLS = ("reverse", "sort", "max", "ja", "ja_reverse", "ja_sort", "ja_max")
TASKS = [{"name": f"demo_{skill}", "metric": "exact_match"} for skill in SKILLS]
GRID = [0.0, 0.2, 0.6]
FINDS_IT = (0.6, 0.2, 0.2)
SHARE = 0.5  # of all documents, in a study
SHARDS = 512  # documents that are scored at once
# Noise in units of each tensor's own spread: none is better; about +2 points; about +5 points.
ZOOS = {"null": 0.06, "+2 points": 0.14, "+5 points": 0.215}
INTERVAL = 0.95


def best_merge(zoo: Path, work: Path) -> Path:
    """Return T: the model that a study of the zoo itself exports."""
    model = work / "best" / "best" / "model"
    if model.is_dir():
        return model
    document = {
        "base_model": str(zoo / "base"),
        "models": [str(zoo / f"expert-{skill}") for skill in ("reverse", "sort", "max", "ja")],
        "space": "task_arithmetic_by_tensor",
        "evaluate": {"tasks": TASKS, "include_path": [str(zoo / "tasks")]},
        "search": {"optimizer": "adam", "trials": 30, "seed": 0},
        "workers": {"device": "cpu"},
        "output": {"dtype": "float32"},
    }
    Study(StudyConfig.from_dict(document, Path("/")), work / "best").confirm()
    return model


def write_zoo(best: Path, folder: Path, name: str, noise: float) -> None:
    """Write T, and copies of it with noise, as base, one, two and three."""
    shutil.copytree(best, folder / "base")
    weights = load_file(folder / "base" / "model.safetensors")
    draw = torch.Generator().manual_seed(len(name))
    draws = [
        {key: noise * w.std() * torch.randn(w.shape, generator=draw) for key, w in weights.items()}
        for _ in range(4)
    ]
    is_null = name.startswith("null")
    for key in weights:
        if is_null:
            draws[0][key].zero_()  # T itself is among them
        else:  # .6 e1 + .2 e2 = 0
            draws[2][key] = -draws[1][key] * FINDS_IT[0] / FINDS_IT[1]
    for copy in ("one", "two", "three"):
        shutil.copytree(folder / "base", folder / copy)
    for copy, noises in zip(("base", "one", "two", "three"), draws, strict=True):
        noisy = {key: (w + noises[key]).contiguous() for key, w in weights.items()}
        save_file(noisy, folder / copy / "model.safetensors", {"format": "pt"})


def study_file(zoo: Path, folder: Path, seed: int) -> StudyConfig:
    models = [f"{folder}/{copy}" for copy in ("one", "two", "three")]
    weights = [{"model": m, "parameters": {"weight": {"choice": GRID}}} for m in models]
    document = {
        "base_model": f"{folder}/base",
        "models": models,
        "space": {
            "merge_method": "task_arithmetic",
            "base_model": f"{folder}/base",
            "models": weights,
        },
        "evaluate": {
            "tasks": TASKS,
            "include_path": [str(zoo / "tasks")],
            "items": {"search": 0.25, "race": 0.2, "holdout": 0.55, "per_generation": 12},
        },
        "search": {"trials": 36, "population": 12, "seed": seed},
        "workers": {"backend": "local", "count": 1, "device": "cpu"},
        "output": {"dtype": "float32", "save_model": False},
    }
    return StudyConfig.from_dict(document, Path("/"))


class Scored:
    """The scores of one zoo's recipes on all documents, each worked out once, by a real worker."""

    def __init__(self, config: StudyConfig, file: Path):
        evaluator = start(config.to_dict())
        assert isinstance(evaluator, Evaluator), evaluator
        self.evaluator, self._file = evaluator, file
        description = self.evaluator.handle(Describe())
        assert isinstance(description, Description), description
        self.description = description
        self.items: Mapping[str, list[int]] = description.evaluation["items"]
        self._rows: dict[tuple[str, str], dict[tuple[str, int], list[Any]]] = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            key, rows = json.loads(line)
            self._rows[key[0], key[1]] = {(row[0], row[1]): row for row in rows}

    def rows(self, recipe: Mapping[str, Any], mode: Any) -> dict[tuple[str, int], list[Any]]:
        recipe = {**recipe, "seed": 0}  # each study's own, which DARE's mask alone follows
        key = json.dumps(recipe, sort_keys=True), mode
        if key not in self._rows:
            listed = [(task, i) for task, ids in self.items.items() for i in ids]
            shards = []
            for start_at in range(0, len(listed), SHARDS):
                shard: dict[str, list[int]] = {}
                for task, i in listed[start_at : start_at + SHARDS]:
                    shard.setdefault(task, []).append(i)
                shards.append(shard)
            answer = self.evaluator.handle(Evaluate(recipe, shards, mode))
            assert isinstance(answer, Scores), answer
            rows = [list(row) for row in answer.rows]
            with self._file.open("a") as out:
                out.write(json.dumps([key, rows]) + "\n")
            self._rows[key] = {(row[0], row[1]): row for row in rows}
        return self._rows[key]

    def truth(self, recipe: Mapping[str, Any]) -> float:
        """The mean over all documents, each task counting the same."""
        rows = self.rows(recipe, "metric")
        return fmean(fmean(rows[task, i][2] for i in ids) for task, ids in self.items.items())


class ReplayPool(Pool):
    """One worker that looks scores up; a study sees the documents that were drawn for it."""

    def __init__(self, config: StudyConfig, scored: Scored):
        super().__init__(config)
        self._scored, self._replies = scored, list[Reply]()
        draw = random.Random(config.search.seed)
        self._drawn = {
            task: sorted(draw.sample(range(len(ids)), int(SHARE * len(ids))))
            for task, ids in scored.items.items()
        }

    def submit(self, worker: int, request: Request) -> None:
        scored = self._scored
        if isinstance(request, Evaluate):
            rows = scored.rows(request.recipe, request.mode)
            wanted = [
                rows[task, i]
                for shard in request.shards
                for task, ids in shard.items()
                for i in ids
            ]
            answer: Any = Scores(rows=wanted, seconds={"total": 0.0})
        elif isinstance(request, Describe):
            about = scored.description.evaluation
            part = {
                name: {task: [about[name][task][n] for n in ns] for task, ns in self._drawn.items()}
                for name in ("items", "item_keys")
            }
            answer = replace(scored.description, evaluation={**about, **part})
        else:
            answer = scored.evaluator.handle(request)
        self._replies.append(Reply(worker, answer))

    def poll(self, timeout: float) -> list[Reply]:
        del timeout
        replies, self._replies = self._replies, []
        return replies

    def restart(self, worker: int) -> None:
        raise AssertionError(f"worker {worker} cannot be lost")

    def close(self) -> None:
        pass


def one_study(config: StudyConfig, scored: Scored, run: Path) -> dict[str, Any]:
    study_module.open_pool = lambda config, _log: ReplayPool(config, scored)
    verdict = Study(config, run).confirm(progress=False)
    record = Study(config, run).record
    true = {
        n: scored.truth(record.trials[n].recipe)
        for n in (verdict.race_winner.trial, *(c.trial for c in verdict.comparisons))
    }
    rivals = [true[c.trial] for c in verdict.comparisons if c.trial != verdict.race_winner.trial]
    return {
        "seed": config.search.seed,
        "shown": verdict.improvement_shown,
        "kind": verdict.race_winner.kind,
        "true_gain": round(true[verdict.race_winner.trial] - max(rivals, default=math.nan), 5),
    }


def interval(hits: int, of: int) -> str:
    """Clopper and Pearson's, in percent."""
    tail = (1 - INTERVAL) / 2
    low = beta.ppf(tail, hits, of - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, of - hits) if hits < of else 1.0
    return f"{100 * hits / of:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


TITLES = ["zoo", "studies", "the search's point wins", "shown", "shown, and false"]
BY_GAIN = ["the winner is truly better by, points", "winners", "shown"]
GAINS = [(-math.inf, 0.0), (0.0, 0.01), (0.01, 0.015), (0.015, 0.026), (0.045, 0.055)]


def summary(lines: list[dict[str, Any]]) -> list[str]:
    """What the studies of a zoo found and showed."""
    shown = [line for line in lines if line["shown"]]
    false = [line for line in shown if not line["true_gain"] > 0]
    return [
        f"{len(lines)}",
        f"{len(_of_search(lines))}",
        interval(len(shown), len(lines)),
        interval(len(false), len(lines)),
    ]


def by_gain(lines: list[dict[str, Any]]) -> list[list[str]]:
    """How often a point of the search that is so much better than its rivals is shown to be."""
    rows = [BY_GAIN]
    for low, high in GAINS:
        hits = [line["shown"] for line in _of_search(lines) if low < line["true_gain"] <= high]
        label = f"{100 * low:.1f} to {100 * high:.1f}" if low > -1 else "none"
        rows.append([label, f"{len(hits)}", interval(sum(hits), len(hits)) if hits else "–"])
    return rows


def _of_search(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] not in ("base", "parent", "anchor")]


def main() -> None:
    zoo, work = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 200
    torch.set_num_threads(1)
    journal_module.sync_data = lambda _: None  # no study here has to survive a power cut
    rows, everything = [TITLES], list[dict[str, Any]]()
    for name, noise in ZOOS.items():
        folder = work / name.replace(" ", "-")
        if not (folder / "three" / "model.safetensors").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_zoo(best_merge(zoo, work), folder, name, noise)
        file = folder / "studies.jsonl"
        texts = file.read_text().splitlines() if file.exists() else []
        lines = [json.loads(text) for text in texts]
        if len(lines) < count:
            scored = Scored(study_file(zoo, folder, 0), folder / "scores.jsonl")
        for seed in range(len(lines), count):
            run = folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            lines.append(one_study(study_file(zoo, folder, seed), scored, run))
            with file.open("a") as out:
                out.write(json.dumps(lines[-1]) + "\n")
        everything += lines
        rows.append([name, *summary(lines)])
        print("| " + " | ".join(rows[-1]) + " |", flush=True)
    gains = by_gain(everything)
    print("\n".join("| " + " | ".join(row) + " |" for row in gains))
    result = Path(__file__).with_name("result.json")
    tables = json.loads(result.read_text())
    tables["null_studies"] = {"rows": rows, "by_gain": gains}
    result.write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
