"""Check a finished demo: an improvement is shown, and the stock lm_eval command agrees.

Run as ``python -m tests.check_demo DIR``.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path


def main(directory: Path) -> None:
    run = directory / "run"
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["improvement_shown"], verdict["sentence"]
    assert (run / "report.html").stat().st_size > 10_000
    words = shlex.split(verdict["reproduce"])
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    table = dict(re.findall(r"^\|(\w+)\s*\|.*?[↑↓]\s*\|\s*([\d.]+)\|", printed, flags=re.M))
    expected = verdict["scores"]["winner"]
    assert set(table) == set(expected), printed
    for task, score in expected.items():
        assert abs(float(table[task]) - score) < 5e-5, (task, table[task], score)
    print(f"improvement shown; lm_eval prints the journal's score for all {len(expected)} tasks")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
