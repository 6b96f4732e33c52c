"""A worker that needs no model: scores follow from the recipe's numbers and a hash of the item.

It speaks as `evomerge.study.workers.child` does, and starts in hundredths of a second, since it
imports nothing but the standard library. What it does is set by STUB_WORKER, a JSON object in the
environment: see `DEFAULTS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "documents": 60,  # of each task
    "contrary": False,  # the smooth score is high where the metric is low
    "cut": 0.0,  # share of generated answers that run into the limit, and are not extracted
    "silent_above": None,  # recipes of the search whose first weight is above it write nothing
    "silent": False,  # no recipe writes anything
    "signal": 1.0,  # how much of a score is the recipe's quality; 0 is pure chance
    "salt": "",  # of the chance
    "seconds": 0.0,  # that each evaluation takes
    "log": None,  # folder with a file of each worker: a line for every evaluation that is begun
    "fail": None,  # kind of failure of every recipe from the search (with a list of weights)
    "fail_above": None,  # ... or only of those whose first weight is above this
    "die_on": None,  # file: a worker that finds it removes it and dies in the middle of an answer
    "lost_after": None,  # [file, n]: after n requests to all workers, each one ends its worker
    "slow": None,  # [folder, chance, seconds]: some evaluations take so long when first tried
    "differ": False,  # ... and give other scores than when they are tried again
    "fingerprint": "",  # changes that of every model
    "fingerprint_of": None,  # ... or of this model alone
    "shared": 0,  # first documents of each task that all tasks have in common
    "protocol": "stub",  # of the evaluation
    "batches": "stub",  # how items are batched; None as an earlier version, that does not say
    "broken": False,  # ends at once, as a worker whose imports fail
    "broken_device": None,  # on this GPU: wrong numbers, an error, wrong numbers, an error, ...
    "words": "the stub was told to fail",  # of a failure, as a real worker would redact them
    "prints": None,  # goes to stderr before each answer
    "wrong_export": False,  # writes other weights than it scored
}
TASKS = {
    "stub_choice": "multiple_choice",
    "stub_write": "generate_until",
    "stub_exam": "multiple_choice",
}


def chance(*parts: object) -> float:
    """A number in [0, 1) that follows from the parts alone."""
    text = json.dumps(parts, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48


def name_of(recipe: dict[str, Any]) -> str:
    """A digest of a recipe (not evomerge's own)."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def weights_of(recipe: dict[str, Any]) -> list[float]:
    """Every model's weight in the first layer and in the last."""
    weights: list[float] = []
    for entry in recipe["models"]:
        weight = entry.get("parameters", {}).get("weight", 1.0)
        weights += [weight[0], weight[-1]] if isinstance(weight, list) else [weight, weight]
    return weights


def quality(recipe: dict[str, Any]) -> float:
    """How good a recipe is, in (0, 1]: best are small weights in front and large ones at the end.

    No recipe with one weight a model can do well, nor can one with a single model.
    """
    weights = weights_of(recipe)
    distance = sum((weight - (0.3, 1.2)[i % 2]) ** 2 for i, weight in enumerate(weights))
    alone = 0.6 if len(recipe["models"]) == 1 else 1.0
    return float(alone / (1.0 + 4.0 * distance / len(weights)))


def joined(shards: list[dict[str, list[int]]]) -> dict[str, list[int]]:
    """The items of all shards by task."""
    items: dict[str, list[int]] = {}
    for shard in shards:
        for task, ids in shard.items():
            items.setdefault(task, []).extend(ids)
    return items


class Stub:
    """Answers requests."""

    def __init__(self, config: dict[str, Any], settings: dict[str, Any]):
        self.config = config
        self.settings = settings
        self.evaluations = 0

    def answer(self, request: dict[str, Any], reach: Callable[[str], None]) -> dict[str, Any]:
        """As the real evaluator does, errors that were injected are failures."""
        try:
            if request["do"] == "evaluate":
                reach("worker.evaluate")
        except MemoryError as error:
            return {"failed": {"kind": "oom", "message": str(error)}}
        except RuntimeError as error:
            kind = "device" if "CUDA" in str(error) else "task"
            return {"failed": {"kind": kind, "message": str(error)}}
        return self.handle(request)

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self, request["do"])(request)
        return answer

    def show(self, request: dict[str, Any]) -> dict[str, Any]:
        items = [(task, i) for task, ids in request["items"].items() for i in ids]
        written = [[task, i, " 7", "7", f"prompt {i}"] for task, i in items]
        return {"written": written, "seconds": {"total": 0.0}}

    def batches(self, mode: str, shard: dict[str, list[int]]) -> str:
        return f"{chance(self.settings['batches'], mode, shard):.10f}"

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        tasks = {task["name"]: task for task in self.config["evaluate"]["tasks"]}
        count, settings = self.settings["documents"], self.settings
        models = [self.config["base_model"], *self.config["models"]]
        return {
            "evaluation": {
                "tasks": list(tasks),
                "output_types": {name: TASKS[name] for name in tasks},
                "metrics": {n: {"name": "acc", "higher_is_better": True} for n in tasks},
                "weights": {name: task["weight"] for name, task in tasks.items()},
                "items": {name: list(range(count)) for name in tasks},
                "item_keys": {
                    name: [f"{name if i >= settings['shared'] else ''}:{i}" for i in range(count)]
                    for name in tasks
                },
                "digest": self.settings["protocol"],
                "warnings": [],
            },
            "batches": self.batches(*request["batches"]) if "batches" in request else None,
            "fingerprints": {
                model: model
                + (settings["fingerprint"] if settings["fingerprint_of"] in (None, model) else "")
                for model in dict.fromkeys(models)
            },
            "parameters": 1000,
            "layers": 2,
            "device": os.environ.get("CUDA_VISIBLE_DEVICES", "cpu"),
        }

    def evaluate(self, request: dict[str, Any]) -> dict[str, Any]:
        recipe, settings = request["recipe"], self.settings
        name = name_of(recipe)
        if settings["log"] is not None and not request.get("digest"):
            self.note([name, request["mode"], joined(request["shards"])])
        late = self.is_late(request)
        time.sleep(settings["slow"][2] if late else settings["seconds"])
        searched = any(
            isinstance(entry.get("parameters", {}).get("weight"), list)
            for entry in recipe["models"]
        )
        above = settings["fail_above"]
        if searched and settings["fail"] and (above is None or weights_of(recipe)[0] > above):
            return {"failed": {"kind": settings["fail"], "message": settings["words"]}}
        if settings["prints"]:
            print(settings["prints"], file=sys.stderr, flush=True)
        broken = settings["broken_device"] is not None
        broken = broken and settings["broken_device"] == os.environ.get("CUDA_VISIBLE_DEVICES")
        self.evaluations += 1
        if broken and self.evaluations % 2 == 0:
            return {"failed": {"kind": "device", "message": "CUDA error: ECC, uncorrectable"}}
        rows = [
            self.row(recipe, name, task, i, request["mode"])
            for shard in request["shards"]
            for task, ids in shard.items()
            for i in ids
        ]
        if late and settings["differ"]:
            rows[0][3] += 0.001
        if broken:
            rows = [[*row[:3], row[3] + 0.125, *row[4:]] for row in rows]
        answer = {"rows": rows, "seconds": {"build": 0.0, "forward": settings["seconds"]}}
        if settings["batches"] is not None:
            answer["batches"] = [self.batches(request["mode"], one) for one in request["shards"]]
        if request.get("digest"):
            answer["weights_digest"] = name
        return answer

    def is_late(self, request: dict[str, Any]) -> bool:
        """Whether this is the first try of one of the evaluations that then take long."""
        if self.settings["slow"] is None:
            return False
        folder, share, _ = self.settings["slow"]
        drawn = chance(request["recipe"], joined(request["shards"]), request["mode"])
        try:
            Path(folder, f"{drawn:.15f}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return drawn < share

    def row(self, recipe: dict[str, Any], name: str, task: str, i: int, mode: str) -> list[Any]:
        signal, salt = self.settings["signal"], self.settings["salt"]
        good = signal * quality(recipe) + (1 - signal) * 0.5
        # An item is as hard for one recipe as for another, chance aside.
        hard = signal * chance(salt, task, i) + (1 - signal) * chance(salt, task, i, name)
        metric = float(good > hard)
        smooth = good - hard + 0.05 * chance(salt, task, i, name, "smooth")
        if self.settings["contrary"]:
            smooth = -smooth
        if mode == "smooth":
            return [task, i, None, smooth, 0, 1]
        if TASKS[task] == "generate_until" and self.is_silent(recipe):
            return [task, i, 0.0, None, 0, 0, 1]
        cut = TASKS[task] == "generate_until" and chance(salt, i, name) < self.settings["cut"]
        return [task, i, metric, smooth, int(cut), int(not cut)]

    def is_silent(self, recipe: dict[str, Any]) -> bool:
        """Whether a recipe writes nothing."""
        above, weights = self.settings["silent_above"], weights_of(recipe)
        searched = weights[0] != weights[1]
        return self.settings["silent"] or (above is not None and searched and weights[0] > above)

    def translate(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"mergekit": None, "why_not": "the stub speaks no mergekit"}

    def export(self, request: dict[str, Any]) -> dict[str, Any]:
        out = Path(request["out"])
        out.mkdir(parents=True, exist_ok=True)
        name = name_of(request["recipe"])
        if self.settings["wrong_export"]:
            name = name[::-1]
        (out / "weights").write_text(name)
        contents = {"parameters": 10, "parameters_per_token": 10, "code": {}}
        return {"weights_digest": name, "contents": contents}

    def note(self, entry: list[Any]) -> None:
        # A file of its own: a line that a kill cuts short is then its last, and nobody's beginning.
        folder = Path(self.settings["log"])
        folder.mkdir(exist_ok=True)
        with open(folder / str(os.getpid()), "a") as file:
            file.write(json.dumps(entry) + "\n")


def fault_points() -> Callable[[str], None]:
    """evomerge's fault points, if a fault of workers is asked for; they cost an import."""
    if not os.environ.get("EVOMERGE_FAULT", "").startswith("worker."):
        return lambda _point: None
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from evomerge.core import faults

    return faults.reach


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    settings = {**DEFAULTS, **json.loads(os.environ.get("STUB_WORKER", "{}"))}
    if settings["broken"]:
        sys.exit(1)
    stub = Stub(json.loads(sys.stdin.readline()), settings)
    reach = fault_points()
    reach("worker.start")
    for line in sys.stdin:
        if settings["lost_after"]:
            file, most = settings["lost_after"]
            with open(file, "ab") as counted:
                counted.write(b".")
                if counted.tell() > most:
                    os._exit(9)
        answer = json.dumps(stub.answer(json.loads(line), reach)) + "\n"
        reach("worker.answer")
        if settings["die_on"] and Path(settings["die_on"]).exists():
            Path(settings["die_on"]).unlink()
            sys.stdout.write(answer[: len(answer) // 2])
            sys.stdout.flush()
            os._exit(9)
        sys.stdout.write(answer)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
