"""Copies a study into an Optuna storage, so that Optuna's dashboard can show it.

The journal stays the truth: the copy can be thrown away and made again. Besides
`optimizers/sampling/optuna.py`, which holds the samplers, the only door to the `optuna` package.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.importance import (
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from evomerge.recipe.space.dimension import Dimension
from evomerge.study.journal.codec import Document, parse
from evomerge.study.journal.events import AskedEvent, AskedTrial, Event, ToldEvent, VerdictEvent
from evomerge.study.journal.record import Record
from evomerge.study.journal.trials import AskRecord

_LEAST = 20  # trials
FITNESS, GAIN = "fitness", "gain over the reference anchor"


class Mirror:
    """Listens to a study's events and copies every generation once it has its fitness.

    A trial's value is its gain over the reference anchor on the same items, which can be compared
    between generations as fitness can't; its fitness is an attribute. A failed trial is failed.

    Args:
        name: The Optuna study's.
        storage: An Optuna storage or its URL; a study that is there already is continued.
    """

    def __init__(self, name: str, storage: str | BaseStorage):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        self._known = {trial.user_attrs.get("trial") for trial in self.study.trials}
        self._asked: dict[int, float] = {}

    def __call__(self, event: Event, record: Record) -> None:
        """Take in an event that the record already has."""
        match event:
            case AskedEvent(
                trials=(AskedTrial(generation=int(generation)), *_), time=float(moment)
            ):
                self._asked[generation] = moment
            case ToldEvent():
                ask = record.generations[event.generation]
                if ask.generation == 0:
                    self._begin(record, ask)
                self._copy(record, ask, event.time)
            case VerdictEvent():
                self.study.set_user_attr("verdict", event.sentence)

    def _begin(self, record: Record, ask: AskRecord) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metric names are an experimental feature of Optuna
            self.study.set_metric_names([FITNESS if ask.reference is None else GAIN])
        scores = record.anchor_scores()
        for kind in ("parent", "anchor"):
            for number in record.best_anchors(kind)[:1]:
                text = f"{record.trials[number].name} {scores[number]:.3f}"
                self.study.set_user_attr(f"best {kind} (metric)", text)

    def _copy(self, record: Record, ask: AskRecord, scored_at: float | None) -> None:
        standings = {standing.trial: standing for standing in ask.standings()}
        for number in ask.trials:
            if number in self._known:
                continue
            self._known.add(number)
            trial = record.trials[number]
            attributes: dict[str, Any] = {"trial": number, "name": trial.name}
            attributes |= {"generation": ask.generation, "digest": trial.digest}
            if trial.failure is not None:
                attributes["failure"] = f"{trial.failure.kind}: {trial.failure.message}"
            standing = standings.get(number)
            if standing is not None:
                attributes |= {"fitness": standing.fitness, "scores": record.scores(number)}
            value = None if standing is None else standing.value
            times = self._asked.get(ask.generation or 0), scored_at
            self.study.add_trial(_frozen(record.dimensions, trial.point, value, attributes, times))


def optuna_study(
    record: Record, name: str, storage: str | BaseStorage | None = None
) -> optuna.Study:
    """Return an Optuna study with every trial of the search that was scored.

    Args:
        record: The study.
        name: The Optuna study's name.
        storage: An Optuna storage or its URL; ``None`` keeps it in memory.
    """
    mirror = Mirror(name, InMemoryStorage() if storage is None else storage)
    learned = [ask for _, ask in sorted(record.generations.items()) if ask.fitness is not None]
    if learned:
        mirror._begin(record, learned[0])
    for ask in learned:
        mirror._copy(record, ask, None)
    if record.verdict is not None:
        mirror.study.set_user_attr("verdict", record.verdict.sentence)
    return mirror.study


def catch_up(mirror: Mirror, record: Record, documents: Iterator[Document | None]) -> None:
    """Hand the record and the mirror every event that is there, up to the first ``None``."""
    while (document := next(documents)) is not None:
        event = parse(document)
        if event is not None:
            record.apply(event)
            mirror(event, record)


def importances(record: Record) -> dict[str, dict[str, float]]:
    """Return Optuna's importances by the trials' gains: {evaluator: {dimension: share}}.

    ``fanova`` (Hutter 2014, https://proceedings.mlr.press/v32/hutter14.html): shares of the
    variance that a forest explains. ``ped_anova`` (Watanabe 2023,
    https://arxiv.org/abs/2304.10255): how much the best tenth of the trials differs from all.
    Largest first; empty below 20 trials. Neither says how well it predicts.
    """
    mirror = Mirror("importance", InMemoryStorage())
    for ask in record.generations.values():
        if ask.fitness is not None:
            mirror._copy(record, ask, None)
    study = mirror.study
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _LEAST:
        return {}
    by_evaluator = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices that an evaluator is experimental
        evaluators = {
            "ped_anova": PedAnovaImportanceEvaluator(),
            "fanova": FanovaImportanceEvaluator(seed=0),
        }
        for name, evaluator in evaluators.items():
            shares = get_param_importances(study, evaluator=evaluator)
            by_evaluator[name] = {dimension: float(share) for dimension, share in shares.items()}
    return by_evaluator


def _frozen(
    dimensions: Sequence[Dimension],
    point: Sequence[Any] | None,
    value: float | None,
    attributes: dict[str, Any],
    times: tuple[float | None, float | None],
) -> FrozenTrial:
    values = dict(zip((d.name for d in dimensions), point or (), strict=False))
    start, end = (None if moment is None else datetime.fromtimestamp(moment) for moment in times)
    distributions = {d.name: _distribution(d) for d in dimensions if d.name in values}
    return FrozenTrial(
        number=-1,  # given by the storage
        trial_id=-1,
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        datetime_start=start or end or datetime.fromtimestamp(0),
        datetime_complete=end or start or datetime.fromtimestamp(0),
        params=values,
        distributions=distributions,
        user_attrs=attributes,
        system_attrs={},
        intermediate_values={},
    )


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind == "categorical":
        return CategoricalDistribution(dimension.choices)
    if dimension.kind == "int":
        return IntDistribution(int(dimension.low), int(dimension.high), dimension.log)
    return FloatDistribution(dimension.low, dimension.high, dimension.log)
