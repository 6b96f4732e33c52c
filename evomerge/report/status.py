"""Describes the state of a study, as data and in a few lines, for terminals and displays."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from evomerge.report.numbers import duration, moment, number, percent, plural, tiny
from evomerge.study.journal.events import SearchEndedEvent
from evomerge.study.journal.outcomes import Written
from evomerge.study.journal.record import Record
from evomerge.study.journal.trials import AskRecord
from evomerge.study.phases.control import compare_arms
from evomerge.study.trial import front_of


@dataclass(frozen=True)
class Driver:
    """The process that runs a study, as seen from outside.

    Attributes:
        running: A process is writing to the run.
        last_event: The time of the journal's last event, in seconds since 1970, or ``None``.
    """

    running: bool
    last_event: float | None


def not_running_text(driver: Driver) -> str:
    """Return the state of a study that no process runs, in words.

    >>> not_running_text(Driver(running=False, last_event=0.0))
    'not running since 1970-01-01 00:00:00 UTC'
    """
    since = "" if driver.last_event is None else f" since {moment(driver.last_event)}"
    return f"not running{since}"


def summary(record: Record) -> dict[str, Any]:
    """Return the numbers and names that displays show of a study.

    Returns:
        ``phase``; ``generation`` (the last one asked, or None); ``trials`` (as in
        `Record.status`), ``searched`` and ``wanted`` (search trials only); ``leader`` {name,
        trial, fitness, gain, breaks, answers}: the trial furthest ahead of the reference anchor
        on the same items, whether it breaks a constraint (then all do), and in words how many of
        its generated answers were cut or not found;
        ``last`` {generation, best, median, reference, gain, correlation, loss_correlation} of the
        last generation told; ``baseline``, see `baseline`; ``failures``, how many trials failed by
        kind;
        ``seconds``, ``forward_share``, ``item_evaluations``; ``run_seconds``, and ``cost``, what
        they cost or None; ``verdict``, its sentence or None;
        ``overfit``, its gap between fitted and held-out items in words, or empty;
        ``exported``, whether the result is written; ``control``, see `control.compare_arms`;
        ``front``, see `pareto.front_of`.
    """
    status = record.status()
    generations = record.generations
    scored = [ask for _, ask in sorted(generations.items()) if ask.fitness is not None]
    total = record.seconds["total"]
    return {
        "phase": record.phase,
        "generation": max(generations, default=None),
        "trials": status["trials"],
        "searched": record.n_searched,
        "wanted": _wanted(record),
        "leader": _leader(record),
        "last": _last(scored[-1]) if scored else None,
        "baseline": baseline(record),
        "failures": dict(Counter(t.failure.kind for t in record.trials.values() if t.failure)),
        "seconds": dict(record.seconds),
        "forward_share": record.seconds["forward"] / total if total else None,
        "run_seconds": record.run_seconds,
        "cost": cost(record),
        "item_evaluations": record.item_evaluations,
        "verdict": record.verdict and record.verdict.sentence,
        "overfit": str(record.verdict.overfit) if record.verdict and record.verdict.overfit else "",
        "exported": record.exported is not None,
        "control": compare_arms(record),
        "front": front_of(record),
    }


def cost(record: Record) -> float | None:
    """Return what the workers have cost so far, by ``workers.price_per_hour``, or ``None``."""
    workers = record.config.get("workers", {})
    price, count = workers.get("price_per_hour"), workers.get("count", 1)
    if price is None or not isinstance(count, int):  # or `all`, which has no price
        return None
    return float(price * count * record.run_seconds / 3600)


def _wanted(record: Record) -> int | None:
    """Return the number of trials asked for: by the study, or when its search last ended."""
    asked: int | None = record.config.get("search", {}).get("trials")
    if record.search_ended is None or asked is None:
        return asked
    return int(max(asked, record.search_ended.wanted))


def baseline(record: Record) -> dict[str, dict[str, Any]]:
    """Find the best parent and the best simple merge by metric, on the anchors' items.

    Returns:
        {name, score, answers} under ``parent`` and ``anchor``, as far as they are scored.
    """
    by_metric = record.anchor_scores()
    best: dict[str, dict[str, Any]] = {}
    for kind in ("parent", "anchor"):
        for trial in record.best_anchors(kind)[:1]:
            answers = answers_text(record.written(trial))
            name, score = record.trials[trial].name, by_metric[trial]
            best[kind] = {"name": name, "score": score, "answers": answers}
    return best


def status_text(record: Record, driver: Driver | None = None) -> str:
    """Return a study's state in plain lines, for a terminal; ends without a newline.

    Args:
        record: The study so far.
        driver: Named in the first line if an unfinished study does not run; or ``None``.
    """
    s = summary(record)
    phase = phase_text(s)
    if driver is not None and not driver.running and not (s["phase"] == "done" and s["exported"]):
        phase += f"; {not_running_text(driver)}: the same search command resumes it"
    lines = [("phase", phase), ("trials", trials_text(s))]
    if s["baseline"]:
        lines.append(("anchors", baseline_text(s["baseline"])))
    if s["leader"]:
        lines.append(("leader", leader_text(s["leader"])))
    if s["last"]:
        lines.append(("search", _search(s["last"])))
    if s["control"]:
        lines.append(("random", control_text(s["control"])))
    if s["front"]:
        front = plural(len(s["front"]["trials"]), "trial")
        volume = f"hypervolume above the reference {tiny(s['front']['hypervolume'])}"
        lines.append(("front", f"{front} that no other beats, {volume}"))
    share = "" if s["forward_share"] is None else f", {percent(s['forward_share'])} of it forward"
    spent = f"{duration(s['seconds']['total'])} of workers' time{share}"
    again = f", {record.of_own_rows:,} of them of models' own rows" if record.of_own_rows else ""
    again += f", {record.reused:,} taken from other runs" if record.reused else ""
    price = s["cost"]
    money = "" if price is None else f"{price:,.2f} for {duration(s['run_seconds'])}; "
    lines.append(
        ("cost", f"{money}{spent}; {plural(s['item_evaluations'], 'item evaluation')}{again}")
    )
    if s["failures"]:
        last = [t.failure for t in record.trials.values() if t.failure is not None][-1]
        counts = failures_text(s["failures"])
        lines.append(("failed", f"{counts}; last: {last.kind}: {last.message}"))
    if record.warnings:
        lines.append(("warning", record.warnings[-1].message))
    if s["overfit"]:
        lines.append(("overfit", s["overfit"]))
    lines.append(("verdict", s["verdict"] or "none yet"))
    return "\n".join(f"{name:<7}  {' '.join(text.split())}" for name, text in lines)


def _leader(record: Record) -> dict[str, Any] | None:
    leader = record.leader
    if leader is None:
        return None
    return {
        "name": record.trials[leader.trial].name,
        **asdict(leader),
        "answers": answers_text(record.written(leader.trial)),
    }


def _last(ask: AskRecord) -> dict[str, Any]:
    standings = list(ask.standings())
    best = max(standings, key=lambda standing: standing.fitness, default=None)
    return {
        "generation": ask.generation,
        "best": best and best.fitness,
        "median": statistics.median(s.fitness for s in standings) if standings else None,
        "reference": ask.reference,
        "gain": best and best.gain,
        "correlation": ask.correlation,
        "loss_correlation": ask.loss_correlation,
    }


def control_text(arms: dict[str, Any]) -> str:
    """Return the control arm of a `summary` in words."""
    best, theirs = (number(arms[key], sign=True) for key in ("optimizer_best", "best"))
    count = plural(arms["trials"], "trial")
    return f"{count}, best gain {theirs}; best of as many of the optimizer's: {best}"


def phase_text(s: dict[str, Any]) -> str:
    """Return the phase of a `summary`, in words."""
    if s["phase"] == "search" and s["generation"] is not None:
        return f"search, generation {s['generation']}"
    return "done, not exported yet" if s["phase"] == "done" and not s["exported"] else s["phase"]


def trials_text(s: dict[str, Any]) -> str:
    """Return the trials done of a `summary`, in words."""
    counts = s["trials"]
    is_wanted_known = s["wanted"] is not None and s["wanted"] >= s["searched"]
    wanted = f" of {s['wanted']:,}" if is_wanted_known else ""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{s['searched']:,}{wanted} searched; {counts['asked']:,} with anchors{failed}"


def baseline_text(best_by_kind: dict[str, dict[str, Any]]) -> str:
    """Say `baseline` in words."""
    parts = [
        f"best {kind} {best['name']} {number(best['score'])}"
        + (f" ({best['answers']})" if best["answers"] else "")
        for kind, best in best_by_kind.items()
    ]
    return f"{', '.join(parts)} (metric)"


_ENDS = {"deadline": "the deadline passed", "cost": "the money for it is spent"}


def ended_text(ended: SearchEndedEvent) -> str:
    """Say why a search ended.

    >>> ended_text(SearchEndedEvent(trials=117, wanted=120, reason="trials"))
    'ended after 117 trials: one more generation would exceed the 120 asked for'
    """
    asked, wanted, reason = ended.trials, ended.wanted, ended.reason
    said = f"ended after {plural(asked, 'trial')}"
    if reason == "trials":
        left = f": one more generation would exceed the {wanted:,} asked for"
        return said + (left if asked < wanted else ", as many as were asked for")
    why = _ENDS.get(reason, f"the optimizer stopped ({reason})")
    return f"{said} of {wanted:,}: {why}"


def failures_text(failures: dict[str, int]) -> str:
    """Name failed trials by kind."""
    return ", ".join(f"{count} {kind}" for kind, count in failures.items()) or "none"


def leader_text(leader: dict[str, Any]) -> str:
    """Return the leader of a `summary`, in words."""
    gain = leader["gain"]
    behind = "" if gain is None else f", {number(gain, sign=True)} over the reference anchor"
    name, n = leader["name"], leader["trial"]
    which = name if name == f"trial {n}" else f"{name} (number {n})"
    answers = f"; {leader['answers']}" if leader["answers"] else ""
    broken = "; it breaks a constraint, as all do" if leader.get("breaks") else ""
    return f"{which}: {number(leader['fitness'])}{behind}{answers}{broken}"


def answers_text(written: Written) -> str:
    """Return generated answers that were cut or not found, in words; empty if there are none.

    >>> answers_text(Written(answers=50, truncated=6, unextracted=1))
    '12 % of answers cut, 2.0 % not found'
    """
    parts = []
    if written.truncated:
        parts.append(f"{percent(written.truncated / written.answers)} of answers cut")
    if written.unextracted:
        of = "" if parts else " of answers"
        parts.append(f"{percent(written.unextracted / written.answers)}{of} not found")
    return ", ".join(parts)


def _search(last: dict[str, Any]) -> str:
    text = f"generation {last['generation']}: best {number(last['best'])}"
    text += f", median {number(last['median'])}"
    if last["reference"] is not None:
        text += f", reference {number(last['reference'])}"
    if last["correlation"] is not None:
        text += f"; rank correlation with the metric {last['correlation']:.2f}"
    if last["loss_correlation"] is not None:
        text += f", of the loss {last['loss_correlation']:.2f}"
    return text
