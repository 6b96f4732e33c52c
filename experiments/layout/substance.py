"""Write down what evomerge computes, so that two versions of its code can be compared.

``python substance.py DEMO OUT`` needs a finished ``evomerge demo DEMO``. It writes to OUT, as JSON:
every point, outcome and verdict of two seeded studies on the demo's zoo; the digest of one build
per merge method; and the figures and drawings of the report made from a copy of DEMO's journal (its
words left out). Only the command line and the public Python names are used, so that the same file
runs on either side of a re-layout.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import evomerge as em

STUDIES = {"mixed_methods": 40, "task_arithmetic_by_depth": 60}
NEEDS = {  # what a method takes beside a base and all experts with weight .4
    "slerp": {"experts": 1, "parameters": {"t": 0.3}},
    "nuslerp": {"experts": 2},
    "nearswap": {"experts": 1, "parameters": {"t": 0.001}},
    "arcee_fusion": {"experts": 1},
    "wise_ft": {"experts": 1, "parameters": {"alpha": 0.6}},
    "passthrough": {"experts": 1, "base": False},
    "magnitude_prune": {"experts": 1, "base": False, "parameters": {"density": 0.5}},
    "linear": {"base": False},
    "multislerp": {"base": False},
    "karcher": {"base": False},
}
WITH_DENSITY = {
    "ties",
    "ties_global",
    "dare_linear",
    "dare_ties",
    "della_linear",
    "della",
    "breadcrumbs",
    "breadcrumbs_ties",
    "mask_merge",
    "consensus_ties",
}


def command(*arguments: str | Path) -> str:
    """Run `evomerge ARGUMENTS` and return what it prints, or its error with the exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "evomerge", *map(str, arguments)], capture_output=True, text=True
    )
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def study(demo: Path, space: str, trials: int, out: Path) -> dict[str, object]:
    """Points, fitness, outcomes and verdict of one seeded study; a finished run is only read."""
    text = (demo / "study.yaml").read_text()
    text = re.sub(r"(?m)^space:.*$", f"space: {space}", text)
    text = re.sub(r"trials: \d+", f"trials: {trials}", text)
    file = demo / f"substance_{space}.yaml"
    file.write_text(text)
    run = out / space
    if not (run / "verdict.json").exists():
        command("search", file, run)
    loaded = em.load_study(run)
    outcomes = loaded.outcomes_dataframe()
    columns = ["trial", "digest", "task", "item", "pool", "metric", "smooth"]
    rows = outcomes.sort_values(columns[:4]).to_csv(index=False, columns=columns)
    verdict = json.loads((run / "verdict.json").read_text())
    return {
        "trials": [[t.number, t.digest, t.params, t.fitness, t.gain] for t in loaded.trials],
        "outcomes": f"{len(outcomes)} {hashlib.sha256(rows.encode()).hexdigest()}",
        "verdict": {key: value for key, value in verdict.items() if key != "reproduce"},
    }


def digests(demo: Path, out: Path) -> dict[str, str]:
    """The digest that `evomerge build` prints for one recipe per method."""
    experts = sorted(p for p in (demo / "zoo").iterdir() if p.name.startswith("expert"))
    result = {}
    for entry in json.loads(command("methods", "--json")):
        name = entry["name"]
        needs = NEEDS.get(name, {})
        parameters = dict(needs.get("parameters", {}))
        lines = [f"merge_method: {name}", "dtype: float32"]
        if needs.get("base", True):
            lines.append(f"base_model: {demo / 'zoo' / 'base'}")
        lines.append("models:")
        per_model = (
            {"weight": 0.4} if any(p["name"] == "weight" for p in entry["parameters"]) else {}
        )
        if name in WITH_DENSITY:
            parameters["density"] = 0.6
        for expert in experts[: needs.get("experts", 4)]:
            lines.append(f"  - {{model: {expert}, parameters: {json.dumps(per_model)}}}")
        lines.append(f"parameters: {json.dumps(parameters)}")
        file = out / f"{name}.yaml"
        file.write_text("\n".join(lines) + "\n")
        built = out / "built"
        shutil.rmtree(built, ignore_errors=True)
        result[name] = command("build", file, built).strip().splitlines()[-1]
    return result


def report(demo: Path, out: Path) -> dict[str, object]:
    """Numbers and drawings of the report that a fixed journal gives."""
    run = out / "report_run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(demo / "run", run, ignore=shutil.ignore_patterns("model", "report.html"))
    said = command("report", run)
    page = (run / "report.html").read_text() if (run / "report.html").exists() else said
    body = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", page)
    drawn = re.findall(r'\b(?:d|points|x|y|cx|cy|width|height|x1|y1|x2|y2)="([^"]*)"', body)
    figures = re.findall(r"[-+−]?\d*\.\d+", re.sub(r"<[^>]*>", " ", body))
    return {
        "words": hashlib.sha256(page.replace(str(out), "OUT").encode()).hexdigest(),
        "drawn": hashlib.sha256("\n".join(drawn).encode()).hexdigest(),
        "drawn_count": len(drawn),
        "figures": sorted(figures),
    }


def main() -> None:
    demo, out = Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "digests": digests(demo, out),
        "report": report(demo, out),
        "studies": {space: study(demo, space, n, out) for space, n in STUDIES.items()},
    }
    (out / "substance.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
