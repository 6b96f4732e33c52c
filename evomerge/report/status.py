"""Where a study stands, as data and in a few lines; for `evomerge status` and live displays."""

from __future__ import annotations

from typing import Any

from evomerge.report.numbers import duration, number, percent, plural
from evomerge.study.record import AskRecord, Record


def summary(record: Record) -> dict[str, Any]:
    """What a display shows of a study.

    Returns:
        ``phase``; ``generation`` (the last one asked, or None); ``trials`` (as in
        `Record.status`), ``searched`` and ``wanted`` (search trials only); ``leader`` {name,
        trial, fitness, gain}: the trial furthest ahead of the reference anchor on the same items;
        ``last`` {generation, best, median, reference, gain, correlation} of the last generation
        told; ``seconds``, ``forward_share``, ``item_evaluations``; ``verdict``, its sentence or
        None; ``exported``, whether the result is written.
    """
    status = record.status()
    generations = record.generations
    told = [ask for _, ask in sorted(generations.items()) if ask.fitness is not None]
    config = (record.study or {}).get("config", {})
    total = record.seconds["total"]
    return {
        "phase": record.phase,
        "generation": max(generations, default=None),
        "trials": status["trials"],
        "searched": sum(len(ask.trials) for ask in generations.values()),
        "wanted": config.get("search", {}).get("trials"),
        "leader": _leader(record, told),
        "last": _last(told[-1]) if told else None,
        "seconds": dict(record.seconds),
        "forward_share": record.seconds["forward"] / total if total else None,
        "item_evaluations": record.item_evaluations,
        "verdict": (record.verdict or {}).get("sentence"),
        "exported": record.exported is not None,
    }


def status_text(record: Record) -> str:
    """A study's state in plain lines, for a terminal; ends without a newline."""
    s = summary(record)
    lines = [("phase", _phase(s)), ("trials", _trials(s))]
    if s["leader"]:
        lines.append(("leader", _named(s["leader"])))
    if s["last"]:
        lines.append(("search", _search(s["last"])))
    share = "" if s["forward_share"] is None else f", {percent(s['forward_share'])} of it forward"
    spent = f"{duration(s['seconds']['total'])} of workers' time{share}"
    lines.append(("cost", f"{spent}; {plural(s['item_evaluations'], 'item evaluation')}"))
    failed = [t for t in record.trials.values() if t.failure is not None]
    if failed and failed[-1].failure:
        last = failed[-1].failure
        lines.append(
            ("failed", f"{plural(len(failed), 'trial')}; last: {last.kind}: {last.message}")
        )
    lines.append(("verdict", s["verdict"] or "none yet"))
    return "\n".join(f"{name:<8}{' '.join(text.split())}" for name, text in lines)


def _leader(record: Record, told: list[AskRecord]) -> dict[str, Any] | None:
    """The trial with the highest gain over the reference, or fitness where there is none."""
    found: tuple[float, int] | None = None
    held: dict[str, Any] | None = None
    for ask in told:
        for n, value in zip(ask.trials, ask.fitness or (), strict=True):
            if value is None:
                continue
            gain = None if ask.reference is None else value - ask.reference
            key = (value if gain is None else gain, -n)
            if found is None or key > found:
                name = record.trials[n].name
                found, held = key, {"name": name, "trial": n, "fitness": value, "gain": gain}
    return held


def _last(ask: AskRecord) -> dict[str, Any]:
    known = sorted(value for value in ask.fitness or () if value is not None)
    best = known[-1] if known else None
    middle = (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2 if known else None
    return {
        "generation": ask.generation,
        "best": best,
        "median": middle,
        "reference": ask.reference,
        "gain": None if best is None or ask.reference is None else best - ask.reference,
        "correlation": ask.correlation,
    }


def _phase(s: dict[str, Any]) -> str:
    if s["phase"] == "search" and s["generation"] is not None:
        return f"search, generation {s['generation']}"
    return "done, not exported yet" if s["phase"] == "done" and not s["exported"] else s["phase"]


def _trials(s: dict[str, Any]) -> str:
    counts = s["trials"]
    wanted = f" of {s['wanted']:,}" if s["wanted"] is not None else ""
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{s['searched']:,}{wanted} searched; {counts['asked']:,} with anchors{failed}"


def _named(leader: dict[str, Any]) -> str:
    gain = leader["gain"]
    behind = "" if gain is None else f", {number(gain, sign=True)} over the reference anchor"
    name, n = leader["name"], leader["trial"]
    which = name if name == f"trial {n}" else f"{name} (number {n})"
    return f"{which}: {number(leader['fitness'])}{behind}"


def _search(last: dict[str, Any]) -> str:
    text = f"generation {last['generation']}: best {number(last['best'])}"
    text += f", median {number(last['median'])}"
    if last["reference"] is not None:
        text += f", reference {number(last['reference'])}"
    if last["correlation"] is not None:
        text += f"; rank correlation with the metric {last['correlation']:.2f}"
    return text
