"""Shows studies and trials in a notebook or at a prompt: one line, or a small table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.core.html import table
from evomerge.study.journal.record import Record

if TYPE_CHECKING:
    from evomerge.study.trial import Trial

_MOST = 12  # parameters of a trial


def study_facts(directory: Path, record: Record) -> list[tuple[str, str]]:
    """Return what is known of a study, as (name, value) in words."""
    facts = [("run folder", str(directory)), ("phase", record.phase)]
    if record.study is None:
        return [facts[0], ("phase", "not begun")]
    search = record.config.get("search", {})
    wanted = search.get("trials")
    of = f" of {wanted:,}" if isinstance(wanted, int) and wanted >= record.n_searched else ""
    facts += [
        ("optimizer", f"{search.get('optimizer')}, {len(record.dimensions):,} dimensions"),
        ("search trials", f"{record.n_searched:,}{of}"),
        ("item evaluations", f"{record.item_evaluations:,}"),
    ]
    leader = record.leader
    if leader is not None:
        name = record.trials[leader.trial].name
        facts.append(("leads the search", f"{name}, {_gain(leader.gain, leader.fitness)}"))
    facts.append(("verdict", record.verdict.sentence if record.verdict else "none yet"))
    return facts


def study_line(directory: Path, record: Record) -> str:
    """Return a study in a line."""
    if record.study is None:
        return f"Study({str(directory)!r}, not begun)"
    shown = ""
    if record.verdict is not None:
        shown = ", improvement shown" if record.verdict.improvement_shown else ", none shown"
    return f"Study({str(directory)!r}, {record.phase}, {record.n_searched} trials{shown})"


def study_html(directory: Path, record: Record) -> str:
    """Return a study as a table."""
    return table(study_facts(directory, record))


def trial_html(trial: Trial) -> str:
    """Return a trial as a table: what became of it, and its parameters."""
    rows: list[tuple[str, str]] = [("trial", f"{trial.number}, {trial.name}"), ("kind", trial.kind)]
    rows.append(("state", trial.state))
    if trial.fitness is not None:
        rows.append(("fitness", _gain(trial.gain, trial.fitness)))
    rows += [(f"score on {task}", f"{score:.3f}") for task, score in trial.scores.items()]
    if trial.failure is not None:
        rows.append(("failure", f"{trial.failure.kind}: {trial.failure.message}"))
    params = list(trial.params.items())
    rows += [(n, f"{v:.3f}" if isinstance(v, float) else str(v)) for n, v in params[:_MOST]]
    if len(params) > _MOST:
        rows.append(("…", f"{len(params) - _MOST:,} more parameters"))
    return table(rows)


def _gain(gain: float | None, fitness: float) -> str:
    if gain is None:
        return f"{fitness:.3f}"
    return f"{fitness:.3f}, {gain:+.3f} over the reference anchor".replace("-", "−")
