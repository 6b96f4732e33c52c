"""A pool of workers that only sleep: log-normal durations, scores from a hash. Needs no model."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import random
import time
from pathlib import Path
from typing import Any

from evomerge.study.config import StudyConfig
from evomerge.study.workers.answers.codec import read_answer, write_request
from evomerge.study.workers.pool import Pool, Reply
from evomerge.study.workers.requests import Describe, Request

TASKS, DOCUMENTS = ("one", "two"), 400


class SleepingPool(Pool):
    """Answers a request when its time has come; every worker is busy for just that long.

    Attributes:
        mean_seconds: Of a whole candidate; its shards take their part.
        spread: σ of the logarithm.
        busy: (start, end, first) of every unit; `first` is false for one that was done before.
    """

    mean_seconds, spread = 4.0, 0.5

    def __init__(self, config: StudyConfig, _log: Path):
        super().__init__(config)
        self.busy: list[tuple[float, float, bool]] = []
        self._due: list[tuple[float, int, dict[str, Any]]] = []
        self._seen: set[str] = set()
        self._draw = random.Random(0)
        SleepingPool.last = self

    def submit(self, worker: int, asked: Request) -> None:
        now = time.monotonic()
        request = write_request(asked)
        answer = self._describe() if isinstance(asked, Describe) else self._evaluate(request)
        seconds = answer["seconds"]["total"]
        key = json.dumps([request.get("recipe"), request.get("shards"), request.get("mode")])
        self.busy.append((now, now + seconds, key not in self._seen))
        self._seen.add(key)
        heapq.heappush(self._due, (now + seconds, worker, answer))

    def poll(self, timeout: float) -> list[Reply]:
        wait = self._due[0][0] - time.monotonic() if self._due else timeout
        if wait > 0:
            time.sleep(min(wait, timeout))
        replies = []
        while self._due and self._due[0][0] <= time.monotonic():
            _, worker, answer = heapq.heappop(self._due)
            replies.append(Reply(worker, read_answer(answer)))
        return replies

    def restart(self, worker: int) -> None:
        self._due = [entry for entry in self._due if entry[1] != worker]
        heapq.heapify(self._due)

    def close(self) -> None:
        pass

    def _describe(self) -> dict[str, Any]:
        models = [self.config.base_model, *self.config.models]
        return {
            "evaluation": {
                "tasks": list(TASKS),
                "output_types": dict.fromkeys(TASKS, "multiple_choice"),
                "metrics": {t: {"name": "acc", "higher_is_better": True} for t in TASKS},
                "weights": dict.fromkeys(TASKS, 1.0),
                "items": {task: list(range(DOCUMENTS)) for task in TASKS},
                "item_keys": {task: [f"{task}:{i}" for i in range(DOCUMENTS)] for task in TASKS},
                "digest": "stand-in",
                "warnings": [],
            },
            "fingerprints": dict.fromkeys(models, "stand-in"),
            "parameters": 1000,
            "layers": 2,
            "device": "cpu",
            "seconds": {"total": 0.0},
        }

    def _evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        name = json.dumps(request["recipe"], sort_keys=True)
        items = [
            (task, i) for shard in request["shards"] for task, ids in shard.items() for i in ids
        ]
        draw = _chance(name)
        rows = []
        for task, i in items:
            score = 0.5 * draw + 0.5 * _chance(f"{name}{task}{i}")
            rows.append([task, i, float(score > 0.5), score, 0, 1])
        seconds = 0.0
        if self.mean_seconds:
            mean = self.mean_seconds * len(items) / (2 * PER_GENERATION)
            seconds = self._draw.lognormvariate(math.log(mean) - self.spread**2 / 2, self.spread)
        spent = {"build": 0.0, "forward": seconds, "total": seconds}
        return {"rows": rows, "seconds": spent, "batches": ["stand-in"] * len(request["shards"])}


PER_GENERATION = 32  # of each of two tasks, so 64 items a candidate


def study(
    trials: int,
    population: int,
    workers: int,
    optimizer: str = "cmaes",
    shards: int = 16,
    knots: int = 5,
) -> StudyConfig:
    """A study for them: 64 items a candidate in so many shards, 2 x `knots` dimensions."""
    weight = {"low": 0.0, "high": 1.5, "knots": knots}
    document = {
        "base_model": "base",
        "models": ["one", "two"],
        "space": {
            "merge_method": "task_arithmetic",
            "models": [{"model": "*", "parameters": {"weight": weight}}],
        },
        "evaluate": {
            "tasks": list(TASKS),
            "batch_size": 2 * PER_GENERATION // shards,
            "items": {"per_generation": PER_GENERATION},
        },
        "search": {
            "optimizer": optimizer,
            "trials": trials,
            "population": population,
            "random_share": 0.0,  # the optimizer alone
        },
        "workers": {"count": workers},
    }
    return StudyConfig.from_dict(document, Path("/"))


def _chance(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48
