"""Scores the landscape around a finished study's winner, with the study's own workers.

Three cuts through the search space: the line from the best anchor through the winner and beyond it
(Goodfellow 2015, https://arxiv.org/abs/1412.6544), a slice along two dimensions, and the winner
with one part at a time put back to the anchor's values. All recipes are scored on the same items of
the race's pool, which the search has not seen. What is scored goes into a journal of its own in
RUN/explain, so an interrupted call goes on, and the study's journal stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.space.dimension import Point
from evomerge.recipe.space.inverse import point_of
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.analysis import cuts
from evomerge.study.config import StudyConfig
from evomerge.study.context import StudyRun, study_space
from evomerge.study.journal.events import Event, OutcomesEvent
from evomerge.study.journal.journal import JOURNAL
from evomerge.study.journal.record import Record
from evomerge.study.ledger import Ledger
from evomerge.study.past import of_journal
from evomerge.study.phases.check import check
from evomerge.study.statistics.outcome import Tasks, fitness, item_scores
from evomerge.study.statistics.paired import paired_difference
from evomerge.study.statistics.pools import generation_items
from evomerge.study.workers.pool import open_pool
from evomerge.study.workers.scheduler import Scheduler

FOLDER = "explain"
BEYOND = 0.5  # how far the line goes on behind the winner, in lengths of the way to it
_SAME = ("fingerprints", "protocol", "pools", "dimensions")


def landscape(
    directory: Path,
    n: int,
    important: Sequence[str] = (),
    listener: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a line, a slice and ablations around the winner of a finished study.

    Args:
        directory: The run folder.
        n: Points on the line, and values of each dimension of the slice; at least 3.
        important: Names of dimensions, the most important first; the slice is along the first two.
            Without them, along those in which winner and anchor lie furthest apart.
        listener: Hears how many recipes are scored, of how many.

    Returns:
        ``winner`` and ``start``, names; ``items``, their count, and ``fitness``, the score that is
        used; ``line`` [{position, score, gain, low, high}], the start at 0 and the winner at 1;
        ``barrier``, how far the line falls below the straight line between their scores;
        ``slice`` {dimensions, values, scores}, by the first dimension's values, then the second's;
        ``parts`` [{part, score, gain, low, high}]. A gain is over the winner, with a paired 95 %
        interval. What could not be merged or scored is None; `line` is None without another point.

    Raises:
        UserError: There is no verdict, the winner is no point of the space, or parents or tasks are
            not those of the run.
    """
    past = Record.read(directory)
    if past.study is None or past.study.elsewhere or past.verdict is None:
        raise UserError(
            f"{directory}: expected a study that its own workers have scored to a verdict; end it "
            "with `evomerge search`"
        )
    config = StudyConfig.from_dict(of_journal(past.study), Path("/"))
    space = study_space(config)
    name, winner = _winner(past, space, directory)
    start_name, start = _start(past, space, winner)
    along = cuts.line(space.dimensions, start, winner, n, 1 + BEYOND)
    axes = cuts.axes(space.dimensions, start, winner, important)
    values = [cuts.values(space.dimensions[axis], winner[axis], n) for axis in axes]
    grid = [cuts.moved(winner, axes, at) for at in product(*values)]
    parts = cuts.parts(space.dimensions, start, winner)
    points = [winner, *along.values(), *grid, *parts.values()]
    with_rows = _scored(directory / FOLDER, config, space, past, points, listener)
    rows, tasks = with_rows["rows"], past.tasks_of("race")
    if rows[winner] is None:
        raise UserError(f"{directory}: the winner could not be scored: {with_rows['why']}")

    def gain_at(point: Point) -> dict[str, float | None]:
        return _gain_over_winner(rows[point], rows[winner], tasks, config.evaluate.fitness)

    line = [{"position": position, **gain_at(point)} for position, point in along.items()]
    scores = [gain_at(point)["score"] for point in grid]
    width = len(values[-1])
    return {
        "winner": name,
        "start": start_name,
        "items": with_rows["items"],
        "fitness": config.evaluate.fitness,
        "line": line or None,
        "barrier": _barrier(line),
        "slice": {
            "dimensions": [space.dimensions[axis].name for axis in axes],
            "values": values,
            "scores": [scores[i : i + width] for i in range(0, len(scores), width)],
        },
        "parts": [{"part": part, **gain_at(point)} for part, point in parts.items()],
    }


def _winner(record: Record, space: SearchSpace, directory: Path) -> tuple[str, Point]:
    """Return the recommended trial, or else the race's winner: the first that is a point."""
    winner = record.winner
    assert winner is not None
    assert record.race_winner is not None
    for trial in (winner, record.trials[record.race_winner]):
        point = _point(record, space, trial.number)
        if point is not None:
            return trial.name, point
    raise UserError(
        f"{directory}: expected a winner that is a point of the space, but "
        f"{winner.name} is none, so nothing lies around it"
    )


def _start(record: Record, space: SearchSpace, winner: Point) -> tuple[str, Point]:
    """Return the best other anchor by metric that the space holds, or the space's start."""
    for number in record.best_anchors():
        point = _point(record, space, number)
        if point is not None and point != winner:
            return record.trials[number].name, point
    return "the space's start", tuple(d.start for d in space.dimensions)


def _point(record: Record, space: SearchSpace, number: int) -> Point | None:
    trial = record.trials[number]
    return trial.point or point_of(space, Recipe.from_dict(trial.recipe))


def _scored(
    folder: Path,
    config: StudyConfig,
    space: SearchSpace,
    past: Record,
    points: Sequence[Point],
    listener: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Score every point: its outcomes (None: failed), the number of items, the last failure."""
    assert past.study is not None
    try:
        folder.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"{folder}: cannot make this folder: {error}") from None
    scored: set[int] = set()

    def listen(event: Event, _: Record) -> None:
        if listener is not None and isinstance(event, OutcomesEvent):
            scored.add(event.trial)
            listener(len(scored), len(set(points)))

    ledger = Ledger(folder / JOURNAL, listen)
    try:
        past_study = ledger.record.study
        if past_study is None:
            ledger.log(past.study)
        elif any(getattr(past_study, key) != getattr(past.study, key) for key in _SAME):
            raise UserError(f"{folder}: this was made of another run; remove it and try again")
        study = StudyRun(config, folder, space, ledger)
        per_task = config.evaluate.items_per_task
        items = generation_items(study.pools["race"], per_task, study.seed, 0)
        unique = list(dict.fromkeys(points))
        first = study.record.next_number
        with open_pool(config, folder / "workers.log") as pool:
            ledger.employ(Scheduler(pool))
            check(study, allow_changed=True)  # other versions score all of these points alike
            study.ask(
                [("trial", f"point {i}", p, space.fill(p)) for i, p in enumerate(unique)],
                None,
                items,
            )
            numbers = range(first, first + len(unique))
            rows = ledger.outcomes(numbers, items, config.evaluate.fitness, "landscape")
        failures = [t.failure.message for t in study.record.trials.values() if t.failure]
    finally:
        ledger.close()
    return {
        "rows": dict(zip(unique, (rows[number] for number in numbers), strict=True)),
        "items": sum(map(len, items.values())),
        "why": failures[-1] if failures else "",
    }


def _gain_over_winner(
    rows: Sequence[OutcomeRow] | None, winner: Sequence[OutcomeRow], tasks: Tasks, score_kind: Any
) -> dict[str, float | None]:
    """Return the score, and the gain over the winner with its interval."""
    if rows is None:
        return dict.fromkeys(("score", "gain", "low", "high"))
    if rows is winner:  # no luck in that comparison
        return {"score": fitness(rows, tasks, score_kind), "gain": 0.0, "low": 0.0, "high": 0.0}
    ours, theirs = (_columns(each, tasks, score_kind) for each in (rows, winner))
    higher: Tasks = {task: {**spec, "higher_is_better": True} for task, spec in tasks.items()}
    paired = paired_difference(ours, theirs, higher)
    return {
        "score": fitness(rows, tasks, score_kind),
        "gain": paired.difference,
        "low": paired.low,
        "high": paired.high,
    }


def _columns(
    rows: Sequence[OutcomeRow], tasks: Tasks, score_kind: Any
) -> Mapping[str, list[float]]:
    by_task = item_scores(rows, tasks, score_kind)
    return {task: [values[i] for i in sorted(values)] for task, values in by_task.items()}


def _barrier(line: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the largest fall below the line between the scores at 0 and at 1; at least 0."""
    scores: dict[float, float] = {
        at["position"]: at["score"]
        for at in line
        if at["position"] <= 1 and at["score"] is not None
    }
    if 0 not in scores or 1 not in scores:
        return None
    a, b = scores[0], scores[1]
    return max(a + position * (b - a) - score for position, score in scores.items())
