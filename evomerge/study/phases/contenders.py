"""Chooses who races: the best anchors, the optimizer's mean, and the search's leaders."""

from __future__ import annotations

from evomerge import optimizers as search
from evomerge.optimizers.coordinates import Coordinates
from evomerge.recipe.space.dimension import Point
from evomerge.study.context import StudyRun
from evomerge.study.phases.baseline import Baseline
from evomerge.study.phases.feedback import distance

# An optimizer's mean, and the leaders of the whole search and of its last generations, race.
LEADERS, RECENT_LEADERS, RECENT_GENERATIONS = 4, 3, 3


def contenders(study: StudyRun, baseline: Baseline, optimizer: search.Optimizer) -> list[int]:
    """Return the numbers of the trials that race, simplest first.

    Leaders are ranked by how far they were ahead of the reference anchor on the same items,
    since generations see different items; those that broke a constraint stay out.
    """
    record = study.record
    simple = record.best_anchors()[:2]
    mean = optimizer.mean
    means = [] if mean is None else [_mean(study, mean)]
    means += [_mean(study, point) for point in optimizer.milestones]
    gains = {s.trial: s.gain for s in record.standings() if s.gain is not None and not s.breaks}
    last = max(record.generations, default=0) - RECENT_GENERATIONS
    recent = [n for n in gains if (record.trials[n].generation or 0) > last]
    leaders = sorted(gains, key=lambda n: (-gains[n], n))[:LEADERS]
    leaders += sorted(recent, key=lambda n: (-gains[n], n))[:RECENT_LEADERS]
    if study.config.search.select == "simplest":
        means, leaders = [], [*means, *leaders]
        start = baseline.start() or tuple(d.start for d in study.space.dimensions)
        space = Coordinates(study.space.dimensions)
        leaders.sort(key=lambda n: distance(space, record.trials[n].point or start, start))
    unique: dict[str, int] = {}
    for number in [*simple, *means, *leaders]:
        unique.setdefault(record.trials[number].digest, number)
    return list(unique.values())


def _mean(study: StudyRun, point: Point) -> int:
    """Return the trial at the optimizer's mean, asked now unless it was before."""
    recipe = study.space.fill(point)
    for trial in study.record.trials.values():
        if trial.digest == recipe.digest:
            return trial.number
    study.ask([("mean", "the optimizer's mean", point, recipe)], None, None)
    return study.record.next_number - 1
