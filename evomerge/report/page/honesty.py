"""Shows possible sources of bias: answers that were cut or not found, and gains that shrink."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from evomerge.report.charts.intervals import Gap, differences
from evomerge.report.charts.layout import responsive
from evomerge.report.findings.held_out import held_out_models, judged
from evomerge.report.numbers import interval, number, percent, plural
from evomerge.report.page.race import last_race
from evomerge.report.run import Run
from evomerge.study.analysis.winners_curse import winners_curse
from evomerge.study.journal.events import RacedEvent
from evomerge.study.journal.trials import TrialRecord
from evomerge.study.phases.control import compare_arms
from evomerge.study.statistics.comparison import compare
from evomerge.study.statistics.outcome import fitness


def section(run: Run) -> dict[str, Any]:
    """Show truncation and extraction per model; the winner's gain stage by stage."""
    sentences = {"luck": _luck(run), "control": _control(run), "batches": _batches(run)}
    return {"flags": _flags(run), **sentences, **_gains(run)}


def _batches(run: Run) -> str | None:
    """Say whether the candidates of a generation were scored in the same batches."""
    record = run.record
    if record.study is None or record.batches.last is None:
        return None  # older journals do not record it
    alike = several = 0
    for ask in record.generations.values():
        batches = {record.batches_of(number) for number in ask.trials} - {None}
        if ask.fitness is not None and batches:
            several += 1
            alike += len(batches) == 1
    if alike == several:
        return (
            f"All candidates of a generation were scored in the same batches, in all {several} "
            "generations."
        )
    return (
        f"In {alike} of {several} generations all candidates were scored in the same batches; in "
        "the others scores may differ by rounding."
    )


def _luck(run: Run) -> str | None:
    """Say which share of the best search score is expected to be luck."""
    curse = winners_curse(run.record)
    if curse is None:
        return None
    return (
        f"The best of {curse['candidates']:,} candidates on {curse['items']:,} items each is "
        f"expected to score {number(curse['expected'])} above its true fitness: scores differ by "
        f"{number(curse['spread'])} within a generation, of which {number(curse['noise'])} is "
        "due to the choice of items. The race and the verdict use other items."
    )


def _control(run: Run) -> str | None:
    """Compare the optimizer with trials drawn at random, in a sentence."""
    arms = compare_arms(run.record)
    if arms is None:
        return None
    best, theirs = (number(arms[key], sign=True) for key in ("optimizer_best", "best"))
    means = [number(arms[key], sign=True) for key in ("optimizer_mean", "mean")]
    return (
        f"{plural(arms['trials'], 'trial')} drawn at random on the same items: mean gain over the "
        f"reference {means[1]}, best {theirs}; the optimizer's trials: mean {means[0]}, best of as "
        f"many {best}."
    )


def _flags(run: Run) -> dict[str, Any]:
    """Return counts over the held-out items of every model."""
    rows: list[dict[str, Any]] = []
    total = 0
    for model in held_out_models(run):
        cut = sum(row.truncated for row in model.rows)
        lost = sum(not row.extracted for row in model.rows)
        total += len(model.rows)
        by_task = {
            task: (
                sum(r.truncated for r in model.rows if r.task == task),
                sum(not r.extracted for r in model.rows if r.task == task),
            )
            for task in run.tasks
        }
        rows.append(
            {
                "name": model.trial.name,
                "ours": model.trial.number == run.ours,
                "items": len(model.rows),
                "cut": _share(cut, len(model.rows)),
                "lost": _share(lost, len(model.rows)),
                "where": ", ".join(
                    f"{task} ({_both(*counts)})" for task, counts in by_task.items() if any(counts)
                ),
                "any": cut + lost > 0,
            }
        )
    return {"rows": rows, "any": any(row["any"] for row in rows), "total": f"{total:,}"}


def _both(cut: int, lost: int) -> str:
    parts = [f"{cut} cut"] if cut else []
    return ", ".join([*parts, *([f"{lost} without answer"] if lost else [])])


def _share(count: int, of: int) -> str:
    return f"{count:,} ({percent(count / of)})" if count else "0"


def _gains(run: Run) -> dict[str, Any]:
    """Compare the winner with the reference anchor: in search, race, and on held-out items."""
    ours = run.record.trials.get(run.ours) if run.ours is not None else None
    rival = _reference(run)
    if ours is None or rival is None or ours.number == rival.number:
        return {"missing_gain": _why(ours, rival)}
    stages = [*_search_stage(run, ours), *_race_stages(run, ours, rival)]
    held_out = _compared(run, ours, rival, "holdout")
    stages += [held_out] if held_out else []
    plotted = [replace(s["gap"], label=s["stage"]) for s in stages if s["interval"]]
    axis = f"{ours.name} − {rival.name}, on the same items"
    return {
        "stages": stages,
        "gain_figure": responsive(partial(differences, plotted, axis, "Gain by stage"))
        if plotted
        else None,
        "ours_name": ours.name,
        "rival_name": rival.name,
    }


def _reference(run: Run) -> TrialRecord | None:
    """Return the anchor that every generation was compared with; the last one if it changed.

    Steps along gradients are compared with none: it is the one that the verdict fitted them beside,
    or the best anchor by the metric.
    """
    if not run.references:
        overfit = run.record.verdict and run.record.verdict.overfit
        trials = [run.record.trials[n] for n in run.record.best_anchors()]
        beside = [trial for trial in trials if overfit and trial.name == overfit.anchor]
        simple = [trial for trial in trials if trial.kind == "anchor"]
        return next(iter([*beside, *simple]), None)
    return run.record.trials[run.references[max(run.references)]]


def _why(ours: TrialRecord | None, rival: TrialRecord | None) -> str:
    if ours is None:
        return "There is no winner yet, so there is no gain to compare."
    if rival is None:
        return "The journal names no reference anchor, so there is no gain to compare."
    return f"The race was won by the reference anchor itself, {ours.name}: there is no gain."


def _search_stage(run: Run, ours: TrialRecord) -> list[dict[str, Any]]:
    """Return the gain the optimizer saw; the best trial's if the winner was never searched."""
    trials, verdict = run.record.trials, run.record.verdict
    if verdict is not None and verdict.overfit is not None:
        fitted = verdict.overfit
        label, gain = "items it was fitted on", fitted.fitted - fitted.anchor_fitted
        gap = Gap(label, gain, None, None)
        return [_stage(label, fitted.items, fitted.fitted, fitted.anchor_fitted, gap)]
    compared = [standing for standing in run.record.standings() if standing.gain is not None]
    if not compared:
        return []
    of_ours = [s for s in compared if trials[s.trial].digest == ours.digest]
    best = max(of_ours or compared, key=lambda s: (s.gain, s.trial))
    ask = run.record.ask_of(best.trial)
    unit = "metric" if run.config.get("evaluate", {}).get("fitness") == "metric" else "smooth score"
    who = "" if of_ours else f"by {trials[best.trial].name}; the search did not score {ours.name}"
    label = f"search, generation {ask.generation}"
    return [
        {
            "stage": label,
            "unit": unit,
            "items": sum(map(len, (ask.items or {}).values())),
            "who": who,
            "ours": number(best.fitness) if of_ours else f"({number(best.fitness)})",
            "theirs": number(ask.reference),
            "gain": number(best.gain, sign=True),
            "interval": "",
            "gap": None,
        }
    ]


def _race_stages(run: Run, ours: TrialRecord, rival: TrialRecord) -> list[dict[str, Any]]:
    """Return one stage per rung that had both, the last with an interval if it is complete."""
    stages = []
    for event, items in last_race(run):
        both = [_score(event, run, trial) for trial in (ours, rival)]
        if both[0] is None or both[1] is None:
            continue
        label = f"race, rung {event.rung + 1}"
        stages.append(
            _stage(label, items, both[0], both[1], Gap(label, both[0] - both[1], None, None))
        )
    whole = _compared(run, ours, rival, "race")
    if stages and whole and stages[-1]["items"] == whole["items"]:
        stages[-1] = {**whole, "stage": stages[-1]["stage"]}
    return stages


def _score(event: RacedEvent, run: Run, trial: TrialRecord) -> float | None:
    """Return a trial's score at a rung, or that of an equal recipe."""
    for n, score in event.scores.items():
        if run.record.trials[n].digest == trial.digest:
            return score
    return None


def _compared(run: Run, ours: TrialRecord, rival: TrialRecord, pool: str) -> dict[str, Any] | None:
    a, b = run.rows(ours, pool), run.rows(rival, pool)
    if a is None or b is None:
        return None
    tasks = run.record.tasks_of(pool)
    of_verdict = judged(run).get(rival.number) if pool == "holdout" else None
    c = of_verdict or compare(a, b, tasks, clusters=run.record.clusters)
    label = {"race": "race, all items", "holdout": "held-out items"}[pool]
    gap = Gap(label, c.difference, c.low, c.high, plural(c.items, "item"), pool == "holdout")
    values = [fitness(rows, tasks, "metric") for rows in (a, b)]
    return _stage(label, c.items, values[0], values[1], gap)


def _stage(label: str, items: int, ours: float, theirs: float, gap: Gap) -> dict[str, Any]:
    known = gap.low is not None and gap.high is not None
    return {
        "stage": label,
        "unit": "metric",
        "items": items,
        "who": "",
        "ours": number(ours),
        "theirs": number(theirs),
        "gain": number(gap.difference, sign=True),
        "interval": interval(gap.low or 0.0, gap.high or 0.0) if known else "",
        "gap": gap,
    }
