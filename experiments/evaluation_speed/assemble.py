"""One result of what run.sh's parts left in a folder: python assemble.py FOLDER; prints JSON."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def assemble(folder: Path) -> dict[str, Any]:
    """Join versions and every part by its name: a JSON file, or a list of JSON lines."""
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    result: dict[str, Any] = {"commit": commit, "python": platform.python_version(), "threads": 1}
    result |= {name: version(name) for name in ("torch", "transformers", "lm_eval")}
    for name in ("zoo", "large", "busy", "workers", "soak", "peers"):
        whole, lines = folder / f"{name}.json", folder / f"{name}.jsonl"
        if whole.is_file():
            result[name] = json.loads(whole.read_text(encoding="utf-8"))
        elif lines.is_file():
            result[name] = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    return result


if __name__ == "__main__":
    print(json.dumps(assemble(Path(sys.argv[1])), indent=1))
