"""Judges finished searches once more: ``python judge.py ZOO OUT --arms …``.

Against the best anchor on the held-out items, paired, with a 95 % interval; and on the part of them
on which answers are watched during the search. Appends to OUT/judged.jsonl what is not there.
"""

import argparse
import json
from pathlib import Path

from bench import WATCHED_PER_TASK, Judge

from evomerge.recipe import Recipe
from evomerge.study.anchors import anchors
from evomerge.study.verdict import compare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", required=True)
    told = parser.parse_args()
    judge = Judge(told.zoo)
    scores = json.loads((told.out / "anchors.json").read_text())["held_out"]
    best = max(scores, key=scores.get)
    recipe = next(a.recipe for a in anchors(judge.config) if a.name == best)
    holdout = judge.pools["holdout"]
    theirs = judge.rows(recipe, holdout, "metric")
    judged = told.out / "judged.jsonl"
    done = judged.read_text() if judged.exists() else ""
    for line in (told.out / "searches.jsonl").read_text().splitlines():
        search = json.loads(line)
        key = {k: search[k] for k in ("arm", "space", "seed", "budget")}
        if search["arm"] not in told.arms or json.dumps(key, ensure_ascii=False)[:-1] in done:
            continue
        mine = recipe if search["recipe"] == "best anchor" else Recipe.from_dict(search["recipe"])
        found = compare(judge.rows(mine, holdout, "metric"), theirs, judge.tasks)
        row = {
            **key,
            "gain": round(found.difference, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
            "watched": round(judge.held_out(mine, WATCHED_PER_TASK), 4),
        }
        with judged.open("a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
