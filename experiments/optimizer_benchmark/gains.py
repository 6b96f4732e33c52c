"""What papers' losses and spaces gain: ``python gains.py ZOO OUT [SEEDS]``; resumes.

Adam without anchors and race, at equal item evaluations, each beside what it is meant to better:
``line`` (MC-SGD, five passes a step) and ``dpo`` (SOMF's loss, on pairs of the right answer and the
base's own wrong one) beside cross entropy, all with a weight for each tensor; shares by a softmax
(learned soup) beside the uniform average; a curve between two experts (EOPC) beside the straight
line, on the three tasks that these two can do. Prints a table of all zoos in OUT.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from arms import ARMS
from bench import Judge, Search

from evomerge.calibration.requests import Collect
from evomerge.study.phases.anchors import anchors
from evomerge.study.workers.requests import Show

PAIR_TASKS = ("demo_ja", "demo_sort", "demo_ja_sort")
FORMS = (  # arm, space, judge, item evaluations
    ("adam alone", "tensor", "all", 3_360),
    ("adam alone, line", "tensor", "all", 3_360),
    ("adam alone, line", "tensor", "all", 16_800),  # as many steps as the first
    ("adam alone, dpo", "tensor", "pairs", 3_360),
    ("adam alone", "soup", "all", 3_360),
    ("adam alone", "line", "two experts", 3_360),
    ("adam alone, lr .01", "line", "two experts", 3_360),
    ("adam alone, lr .01", "curve", "two experts", 3_360),
    ("adam alone, lr .03", "curve", "two experts", 3_360),
)


def with_preferences(judge: Judge, folder: Path) -> Judge:
    """A judge whose search items are pairs: the right answer, and the base's own wrong one."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks: list[Any] = list(judge.tasks)
    items = judge.pools["search"]
    rows = judge._evaluator.handle(Collect(items)).collected
    base = next(a.recipe for a in anchors(judge.config) if a.name == "base")
    shown = judge._evaluator.handle(Show(base.to_dict(), items)).written
    given = {(task, document): answer for task, document, answer, *_ in shown}
    for task in judge.tasks:
        pairs = [
            {"prompt": row["prompt"], "chosen": row["answer"], "rejected": wrong + "<eos>"}
            for number, row in zip(items[task], rows[task], strict=True)
            if (wrong := given[task, number]).strip() + "<eos>" != row["answer"].strip()
        ]
        file = folder / f"{task}.jsonl"
        file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        tasks.append({"name": f"pairs_{task}", "preferences": str(file)})
    other = Judge(judge.zoo, tasks=tasks)
    other.tasks = {task: spec for task, spec in other.tasks.items() if task.startswith("pairs_")}
    other.pools["search"] = {task: other.pools["search"][task] for task in other.tasks}
    other.held_out = judge.held_out  # on the tasks themselves
    return other


def main() -> None:
    zoo, out = Path(sys.argv[1]), Path(sys.argv[2])
    seeds = [int(seed) for seed in (sys.argv[3:] or ["0", "1", "2"])]
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{zoo.name}.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    judges: dict[str, Judge] = {"all": Judge(zoo)}
    judges["pairs"] = with_preferences(judges["all"], out / f"pairs-{zoo.name}")
    judges["two experts"] = Judge(zoo, tasks=PAIR_TASKS)
    for arm, space, of, budget in FORMS:
        for seed in seeds:
            key = {"arm": arm, "space": space, "budget": budget, "seed": seed}
            if any(all(line[k] == v for k, v in key.items()) for line in done):
                continue
            search = Search(judges[of], ARMS[arm], space, seed, budget)
            search.brief = True
            result = search.run()
            shown = {k: result[k] for k in ("held_out", "item_evaluations", "generations")}
            done.append({**key, **shown})
            with file.open("a") as stream:
                stream.write(json.dumps(done[-1]) + "\n")
    if not any(line["arm"] == "best anchor" for line in done):
        for of in ("all", "two experts"):
            named = [a for a in anchors(judges[of].config) if of == "all" or not a.name.count("λ")]
            scores = {a.name: judges[of].held_out(a.recipe) for a in named}
            best = {"arm": "best anchor", "space": of, "budget": 0, "seed": 0}
            best |= {
                "held_out": round(max(scores.values()), 4),
                "name": max(scores, key=scores.get),
            }
            best["uniform average"] = round(scores.get("uniform average", 0.0), 4)
            done.append(best)
            with file.open("a") as stream:
                stream.write(json.dumps(best) + "\n")
    table(out)


def table(out: Path) -> None:
    """Print medians over seeds, and how many, of each zoo."""
    groups: dict[tuple, list[float]] = {}
    for file in sorted(out.glob("*.jsonl")):
        for line in map(json.loads, file.read_text().splitlines()):
            key = (line["space"], line["arm"], line["budget"], file.stem)
            groups.setdefault(key, []).append(line["held_out"])
    for key, values in sorted(groups.items(), key=str):
        low, high = min(values), max(values)
        middle = statistics.median(values)
        print(*key, f"{middle:.3f} ({low:.3f} to {high:.3f}, {len(values)})", sep=" | ")


if __name__ == "__main__":
    main()
