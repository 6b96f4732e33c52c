"""Seconds per candidate: evomerge against mergekit-evolve 0.1.5 and Mergenetic 0.1.1.

    python compare.py ZOO PEERS_PYTHON OUT.json [--rounds 5] [--limit DOCUMENTS_OF_A_TASK]

ZOO is a folder that `evomerge demo` made, PEERS_PYTHON the interpreter of the peers' environment
(make_environment.sh). Same models, tasks, documents and dtype; one thread each; one process each,
started once and asked in turn, so that whatever else the machine does falls on all of them. Every
first candidate is left out; ratios are medians over rounds of what the round measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CHOICES = [f"demo_{skill}_mc" for skill in ("reverse", "sort", "max")]
SKILLS = ("reverse", "sort", "max", "ja", "ja_reverse", "ja_sort", "ja_max")
TEXTS = [f"demo_{skill}" for skill in SKILLS]
WORKLOADS = {
    "300 questions of 4 choices": {"tasks": CHOICES, "metric": "acc", "limit": 100},
    "336 generated answers": {"tasks": TEXTS, "metric": "exact_match", "limit": 48},
}
PEERS = ("mergekit-evolve disk-1", "mergekit-evolve disk-32", "mergekit-evolve memory")


class Contestant:
    """A process that scores one candidate whenever it is asked."""

    def __init__(self, python: str, script: str, job: Path):
        quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [python, str(HERE / script), str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **quiet},
        )
        self._read()

    def score(self, word: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return float(json.loads(self._read())["seconds"])

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: ended without an answer")
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(
    name: str, zoo: Path, peers: str, rounds: int, scratch: Path, limit: int | None = None
) -> dict:
    """One workload: the contestants in turn, `rounds` times."""
    models = [str(zoo / f"expert-{skill}") for skill in ("reverse", "sort", "max", "ja")]
    job = {"base": str(zoo / "base"), "models": models, "method": "task_arithmetic"}
    job |= {**WORKLOADS[name], "include_path": str(zoo / "tasks"), "scratch": str(scratch)}
    job["limit"] = limit or job["limit"]
    file = scratch / "job.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    ours = Contestant(sys.executable, "ours.py", file)
    evolve = Contestant(peers, "mergekit_evolve_peer.py", file)
    seconds: dict[str, list[float]] = {"evomerge smooth": [], "evomerge metric": []}
    seconds |= {peer: [] for peer in PEERS}
    for _ in range(rounds + 1):
        for peer in PEERS:
            for mode in ("smooth", "metric"):
                took = ours.score(mode)
                if peer == PEERS[0]:
                    seconds[f"evomerge {mode}"].append(took)
            seconds[peer].append(evolve.score(peer.split()[1]))
    evolve.close()
    if WORKLOADS[name]["metric"] == "acc":
        genetic = Contestant(peers, "mergenetic_peer.py", file)
        seconds["Mergenetic"] = [genetic.score("go") for _ in range(3)]
        genetic.close()
    ours.close()
    warm_seconds = {who: took[1:] for who, took in seconds.items()}
    return {
        "seconds": {who: round(statistics.median(took), 4) for who, took in warm_seconds.items()},
        "times_faster": {
            mode: {
                who: [round(x, 1) for x in _ratios(took, warm_seconds[f"evomerge {mode}"])]
                for who, took in warm_seconds.items()
                if not who.startswith("evomerge")
            }
            for mode in ("smooth", "metric")
        },
    }


def _ratios(peer: list[float], ours: list[float]) -> tuple[float, float, float]:
    """Median, least and largest of the rounds' ratios."""
    ratios = [a / b for a, b in zip(peer, ours, strict=False)]
    return statistics.median(ratios), min(ratios), max(ratios)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("zoo", type=Path)
    parser.add_argument("peers")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, help="fewer documents of a task, to see that it runs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = {
            name: compare(
                name,
                arguments.zoo.resolve(),
                arguments.peers,
                arguments.rounds,
                Path(scratch),
                arguments.limit,
            )
            for name in WORKLOADS
        }
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
