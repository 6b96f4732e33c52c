"""Copies what was measured without the recipes: ``python shorten.py OUT RESULTS``."""

import json
import shutil
import sys
from pathlib import Path

out, results = map(Path, sys.argv[1:])
results.mkdir(parents=True, exist_ok=True)
lines = [json.loads(line) for line in (out / "searches.jsonl").read_text().splitlines()]
lines.sort(key=lambda s: (s["space"], s["arm"], s["budget"], s["seed"]))
shortened = [{k: v for k, v in line.items() if k not in ("recipe", "digest")} for line in lines]
(results / "searches.jsonl").write_text(
    "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in shortened)
)
shutil.copy(out / "anchors.json", results / "anchors.json")
