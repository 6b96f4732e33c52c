"""Print the figures of a finished demo as JSON: ``python summarise.py DIR WALL_SECONDS``."""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from evomerge.study.journal.codec import parse_all
from evomerge.study.journal.journal import read
from evomerge.study.journal.record import Record
from evomerge.study.statistics.outcome import fitness


def main(directory: Path, wall_seconds: float) -> None:
    run = directory / "run"
    events = read(run / "journal.log")
    record = Record.from_events(parse_all(events))
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    anchors = record.asks[0]
    metric = {
        record.trials[n].name: fitness(
            record.outcomes.rows(record.trials[n].digest, "metric", anchors.items),
            record.tasks,
            "metric",
        )
        for n in anchors.trials
    }
    smooth = [e["seconds"] for e in events if e["event"] == "outcomes" and e["mode"] == "smooth"]
    smooth = smooth[len(anchors.trials) :]  # the first of each worker also loads the model
    held_out = {
        name: sum(scores.values()) / len(scores) for name, scores in verdict["scores"].items()
    }
    times = [e["time"] for e in events if "time" in e]
    result = {
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "versions": {
            name: version(name) for name in ("evomerge", "torch", "transformers", "lm_eval", "ray")
        },
        "machine": f"{platform.machine()}, {platform.python_version()}",
        "seed": record.config["search"]["seed"],
        "seconds": {
            "everything": wall_seconds,
            "study": round(times[-1] - times[0], 1),
            **{key: round(value, 1) for key, value in record.seconds.items()},
        },
        "share_of_forward": round(record.seconds["forward"] / record.seconds["total"], 3),
        "seconds_per_trial": {
            key: round(sorted(s[key] for s in smooth)[len(smooth) // 2], 4)
            for key in ("build", "forward", "total")
        },
        "anchors_metric": {name: round(value, 4) for name, value in metric.items()},
        "curve": [
            {
                "generation": number,
                "best": round(max(f for f in g.fitness if f is not None), 4),
                "best_anchor": round(g.reference, 4),
                "rank_correlation": round(g.correlation, 3),
            }
            for number, g in record.generations.items()
        ],
        "held_out": {name: round(value, 4) for name, value in held_out.items()},
        "verdict": verdict["sentence"],
    }
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
