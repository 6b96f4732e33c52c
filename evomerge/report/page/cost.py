"""Shows the cost of a study: seconds by phase and kind, a timeline of the workers, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from markupsafe import Markup

from evomerge.report.charts.layout import Entry, is_narrow, legend, responsive
from evomerge.report.charts.svg import Figure, Scale, scale, ticks
from evomerge.report.numbers import duration, percent
from evomerge.report.run import PHASES, Run, WorkerJob
from evomerge.study.journal.record import Record

_PHASE_KINDS = {"anchors": "f2", "search": "f1", "race": "f3", "verdict": "ink"}
_PART_KINDS = ("grey1", "grey2", "grey3")
_UNITS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"), (86400.0, "days"))


def section(run: Run) -> dict[str, Any]:
    """Return totals, the figures, and the failures."""
    status = run.record.status()
    if not run.jobs and not run.failures:
        return {"missing": "No worker has delivered anything yet."}
    total = sum(job.end - job.start for job in run.jobs)
    forward = sum(job.forward for job in run.jobs)
    searched = [t for t in run.record.trials.values() if t.kind == "trial" and t.state == "told"]
    in_search = sum(job.end - job.start for job in run.jobs if job.phase == "search")
    searched_items = status["item_evaluations"] - run.record.of_own_rows
    workers = sorted({job.worker for job in run.jobs}, key=_natural)
    facts = [
        ("wall time", duration(run.wall_seconds), _before(run)),
        ("worker time", duration(total), ""),
        ("in the forward pass", percent(forward / total) if total else "–", "of worker time"),
        ("workers busy", _busy(run, len(workers), total), "of wall time"),
        ("trials", f"{status['trials']['asked']:,}", _trials(status["trials"])),
        (
            "item evaluations",
            f"{status['item_evaluations']:,}",
            "; ".join(_beside(run.record)),
        ),
        (
            "per searched trial",
            duration(in_search / len(searched)) if searched else "–",
            "worker time",
        ),
        ("per item", _short(total / max(1, searched_items)), "worker time"),
    ]
    return {
        "facts": facts,
        "by_phase": _by_phase(run.jobs) if run.jobs else None,
        "timeline": _timeline(run, workers) if run.jobs else None,
        "sessions": len(run.sessions),
        "failures": _failures(run),
    }


def _beside(record: Record) -> Iterator[str]:
    """Say what of the item evaluations is no candidate's, and what is not among them."""
    if record.of_own_rows:
        spent = sum(event.seconds.get("total", 0.0) for event in record.measured)
        yield f"{record.of_own_rows:,} of models' own rows, in {duration(spent)}"
    if record.reused:
        yield f"and {record.reused:,} taken from other runs"


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _busy(run: Run, workers: int, total: float) -> str:
    available = workers * run.wall_seconds
    return percent(min(1.0, total / available)) if available else "–"


def _before(run: Run) -> str:
    """Return the time that the check and the workers' start took, before the first delivery."""
    if not run.jobs or not run.sessions:
        return ""
    first = min(job.start for job in run.jobs) - run.sessions[0][0]
    return f"{duration(first)} of it to start" if first >= 1 else ""


def _trials(counts: dict[str, int]) -> str:
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"anchors included{failed}"


def _by_phase(jobs: Sequence[WorkerJob]) -> Markup:
    """Return a bar per phase, stacked: build, forward pass, everything else."""
    rows = []
    for phase in PHASES:
        phase_jobs = [job for job in jobs if job.phase == phase]
        if phase_jobs:
            total = sum(job.end - job.start for job in phase_jobs)
            build = sum(job.build for job in phase_jobs)
            forward = sum(job.forward for job in phase_jobs)
            rows.append((phase, build, forward, max(0.0, total - build - forward)))
    longest = max(sum(seconds) for _, *seconds in rows)
    unit, name = _unit(longest)

    def draw(width: float) -> Markup:
        narrow = is_narrow(width)
        step, top = (44, 20) if narrow else (28, 6)
        height = step * len(rows) + 4
        figure = Figure(width, height + 42, "Worker time by phase")
        left, right = (2.0, width - 8) if narrow else (90.0, width - 230)
        count = 4 if narrow else 6
        at = scale([0.0, longest / unit], left, right, count)
        marks = ticks(at.low, at.high, count)
        figure.x_axis(at, height, 4, marks, f"{name} of worker time")
        for i, (phase, *seconds) in enumerate(rows):
            y, x, total = top + step * i, 0.0, sum(seconds)
            share = percent(seconds[1] / total) if total else "–"
            said = f"{duration(total)}, {share} in the forward pass"
            for kind, label, spent in zip(_PART_KINDS, _PARTS, seconds, strict=True):
                tip = f"{phase}, {label}: {duration(spent)}"
                figure.rect(at(x / unit), y, at(spent / unit) - at(0), 19, kind, tip)
                x += spent
            if narrow:
                figure.text(0, y - 5, f"{phase}: {said}", "", "start", width)
            else:
                figure.text(78, y + 14, phase, "", "end")
                figure.text(at(x / unit) + 8, y + 14, said, "value small")
        return figure.markup()

    entries: list[Entry] = [("bar", *pair) for pair in zip(_PART_KINDS, _PARTS, strict=True)]
    return legend(entries) + responsive(draw)


_PARTS = ("build the merge", "forward pass", "everything else")


def _timeline(run: Run, workers: Sequence[str]) -> Markup:
    """Return one lane per worker; deliveries of one phase that follow closely are drawn as one.

    Time in which no process had the study open is left out.
    """
    total = max(run.wall_seconds, 1e-9)
    unit, name = _unit(total)
    lane = 24 if len(workers) <= 24 else max(3, 576 // len(workers))
    bottom = 10 + lane * len(workers)
    spans = {
        worker: _merged(
            sorted(
                (
                    (job.phase, _open_seconds(run, job.start), _open_seconds(run, job.end))
                    for job in run.jobs
                    if job.worker == worker
                ),
                key=itemgetter(1),
            ),
            0.0015 * total,
        )
        for worker in workers
    }

    def draw(width: float) -> Markup:
        figure = Figure(width, bottom + 46, "What each worker did when")
        left = 22.0 if is_narrow(width) else 90.0
        at = Scale(0.0, total / unit, left, width - 14)
        marks = ticks(at.low, at.high, 4 if is_narrow(width) else 8)
        figure.x_axis(at, bottom, 6, marks, f"{name} since the start")
        for i, worker in enumerate(workers):
            y = 10 + lane * i
            if lane >= 12:
                label = worker if is_narrow(width) else f"worker {worker}"
                figure.text(left - 12, y + lane / 2 + 4, label, "", "end", left - 14)
            for phase, first, until, count in spans[worker]:
                x, wide = at(first / unit), at(until / unit) - at(first / unit)
                said = "1 delivery" if count == 1 else f"{count:,} deliveries"
                tip = f"worker {worker}, {phase}: {said} in {duration(until - first)}"
                kind = _PHASE_KINDS.get(phase, "f4")
                figure.rect(x, y + lane * 0.12, max(0.8, wide), lane * 0.76, kind, tip)
        for opened, _ in run.sessions[1:]:
            x = at(_open_seconds(run, opened) / unit)
            figure.rule(x, 4, x, bottom, "zero")
        return figure.markup()

    used = [phase for phase in PHASES if any(job.phase == phase for job in run.jobs)]
    return legend([("bar", _PHASE_KINDS[phase], phase) for phase in used]) + responsive(draw)


def _open_seconds(run: Run, moment: float) -> float:
    """Return seconds that the study had been open at a moment, over all sessions."""
    return sum(max(0.0, min(moment, end) - start) for start, end in run.sessions)


def _merged(
    spans: Sequence[tuple[str, float, float]], near: float
) -> list[tuple[str, float, float, int]]:
    """Join neighbours with no visible gap between them: (phase, start, end, how many)."""
    merged: list[tuple[str, float, float, int]] = []
    for phase, start, end in spans:
        if merged and merged[-1][0] == phase and start - merged[-1][2] < near:
            _, first, until, count = merged[-1]
            merged[-1] = (phase, first, max(until, end), count + 1)
        else:
            merged.append((phase, start, end, 1))
    return merged


def _failures(run: Run) -> list[dict[str, Any]]:
    """Return each kind with its count, the trials, and its most frequent messages."""
    table = []
    for kind, count in Counter(event.kind for event in run.failures).most_common():
        events = [event for event in run.failures if event.kind == kind]
        messages = Counter(event.message for event in events)
        trials = dict.fromkeys(run.record.trials[event.trial].name for event in events)
        table.append(
            {
                "kind": kind,
                "count": count,
                "phases": ", ".join(dict.fromkeys(event.phase for event in events)),
                "trials": ", ".join(list(trials)[:6]) + (" …" if len(trials) > 6 else ""),
                "messages": [(m, n) for m, n in messages.most_common(3)],
                "more": max(0, len(messages) - 3),
            }
        )
    return table


def _unit(seconds: float) -> tuple[float, str]:
    return next(((u, n) for u, n in reversed(_UNITS) if seconds >= 2 * u), _UNITS[0])


def _natural(worker: str) -> tuple[int, str]:
    return (int(worker) if worker.isdecimal() else 1 << 30, worker)
