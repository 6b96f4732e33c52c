"""Put the figures of a zoo's measurement and studies together: python summarise.py ZOO RUN…."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evomerge import load_study

LIBRARIES = ("torch", "transformers", "lm_eval")


def main() -> None:
    zoo, *runs = map(Path, sys.argv[1:])
    document = {
        **{name: version(name) for name in LIBRARIES},
        "measured": json.loads((zoo / "measured.json").read_text(encoding="utf-8")),
        "studies": {run.name: of_run(run) for run in runs},
    }
    print(json.dumps(document, indent=1))


def of_run(run: Path) -> dict[str, Any]:
    record = load_study(run).record
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    seconds = record.seconds
    return {
        "optimizer": record.config["search"]["optimizer"],
        "trials": sum(trial.kind == "trial" for trial in record.trials.values()),
        "item_evaluations": record.item_evaluations,
        "worker_seconds": round(seconds["total"]),
        "forward_share": round(seconds["forward"] / seconds["total"], 3),
        "sentence": verdict["sentence"],
        "scores": verdict["scores"],
        "comparisons": verdict["comparisons"],
        "warnings": [warning.message for warning in record.warnings],
    }


if __name__ == "__main__":
    main()
