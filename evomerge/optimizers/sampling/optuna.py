"""Any of Optuna's samplers behind the ask/tell contract. The only door to the `optuna` package.

TPE: Watanabe 2023, https://arxiv.org/abs/2304.11127.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from evomerge.core.errors import UserError, unknown
from evomerge.optimizers.coordinates import choice_index, integer_range, rounded
from evomerge.optimizers.optimizer import Optimizer
from evomerge.recipe.space.dimension import Dimension, Point, Value

_SAMPLERS = (
    "CmaEsSampler",
    "GPSampler",
    "NSGAIIISampler",
    "NSGAIISampler",
    "QMCSampler",
    "RandomSampler",
    "TPESampler",
)
# In a conditional space some are asked only for what is active, as Optuna's users do it; others
# need every parameter of every trial, and get the start for what is inactive.
_BY_RUN = ("CmaEsSampler", "TPESampler")
_IMPUTED = ("GPSampler", "NSGAIIISampler", "NSGAIISampler")
_DO_NOT_ADAPT = ("QMCSampler", "RandomSampler")

# Points of one generation are asked before any is told, so TPE needs constant_liar to keep them
# apart, and one joint model of all dimensions; both are the defaults from Optuna 5 on.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "TPESampler": {"multivariate": True, "constant_liar": True},
    "QMCSampler": {"scramble": True},  # otherwise the seed changes nothing
}


class OptunaSampler(Optimizer):
    """A sampler of Optuna on a study in memory, asked for a generation at a time.

    The first point of all is the initial one. A failed point is told the worst fitness seen so
    far: Optuna's own FAIL state would make TPE forget it and ask for its neighbours again.
    Optuna compares fitness across generations, so it suits a fitness whose items stay the same.

    Of a parameter that is inactive TPE is told nothing, NSGA-II and GP that it has its start, and
    CMA-ES searches only what is always active: the rest, choices too, is left to TPE.

    Args:
        sampler: Name of a class in `optuna.samplers`.
        population: Points per generation; ``None`` means ``4 + floor(3 ln d)``.
        seed: The seed used when `start` is given none.
        sampler_options: Passed to the sampler's constructor.
    """

    compares_generations = True
    takes_vectors = True

    def __init__(
        self,
        sampler: str = "TPESampler",
        population: int | None = None,
        seed: int | None = None,
        **sampler_options: Any,
    ) -> None:
        super().__init__(population=population, seed=seed)
        if sampler not in _SAMPLERS:
            raise UserError(unknown("Optuna sampler", sampler, _SAMPLERS))
        self.adapts = sampler not in _DO_NOT_ADAPT
        self._sampler = sampler
        self._sampler_class: type[BaseSampler] = getattr(optuna.samplers, sampler)
        self._sampler_options = {**_DEFAULTS.get(sampler, {}), **sampler_options}
        known = [name for name in self._sampler_parameters() if name not in ("seed", "self")]
        for option in sampler_options:
            if option not in known:
                raise UserError(unknown(f"option of {sampler}", option, known))

    def _begin(self) -> None:
        parameters = self._sampler_parameters()
        options = dict(self._sampler_options)
        conditional = self._coordinates.conditional
        self._by_run = conditional and self._sampler in _BY_RUN
        self._imputed = conditional and self._sampler in _IMPUTED
        kind = self._sampler_class
        options["seed"] = int(np.random.SeedSequence(self._seed).generate_state(1)[0])
        if self._by_run and "group" in parameters:
            options["group"] = options.get("multivariate", False)
        if self._by_run and self._sampler == "CmaEsSampler":
            kind = _AlwaysActive
            options["needy"] = {d.name for d in self._coordinates.dimensions if d.needs}
            options.setdefault("independent_sampler", TPESampler(seed=options["seed"]))
        for size in ("population_size", "popsize"):  # a sampler with generations gets ours
            if size in parameters:
                options.setdefault(size, max(self._population, 2))
        with _quiet():
            self._study = optuna.create_study(
                sampler=kind(**options),
                directions=["maximize"] * self._objectives,
                study_name="search",
            )
            dimensions = self._coordinates.dimensions
            self._distributions = {d.name: _distribution(d) for d in dimensions}
            first = zip(dimensions, self._initial, strict=True)
            self._study.enqueue_trial({d.name: _to_optuna(d, value) for d, value in first})
        self._worst: list[float] | None = None  # of each objective, so far

    def _propose(self) -> list[Point]:
        with _quiet():
            if self._by_run:
                self._trials = [self._study.ask() for _ in range(self._population)]
                points = [self._drawn(trial) for trial in self._trials]
            else:
                self._trials = [
                    self._study.ask(self._distributions) for _ in range(self._population)
                ]
                points = [self._decode(trial.params) for trial in self._trials]
                if self._imputed:
                    self._impute(points)
        if self._trials[0].number == 0:
            points[0] = self._initial  # unrounded
        return points

    def _impute(self, points: list[Point]) -> None:
        """Let an inactive parameter hold its start, which is what stands in the recipe.

        So to a model of the fitness equal recipes are equal, and no child inherits what counted
        for nothing. Hutter 2011, https://doi.org/10.1007/978-3-642-25566-3_40, section 4.1.
        """
        for trial, point in zip(self._trials, points, strict=True):
            for i, dimension in enumerate(self._coordinates.dimensions):
                if self._coordinates.is_asleep(i, point):
                    distribution = self._distributions[dimension.name]
                    start = _to_optuna(dimension, dimension.start)
                    inside = distribution.to_internal_repr(start)
                    trial.storage.set_trial_param(
                        trial._trial_id, dimension.name, inside, distribution
                    )

    def _learn(self, fitness: list[float | None]) -> None:
        self._learn_vectors([None if value is None else [value] for value in fitness])

    def _learn_vectors(self, fitness: list[list[float] | None]) -> None:
        seen = [vector for vector in (*fitness, self._worst) if vector is not None]
        self._worst = [min(column) for column in zip(*seen, strict=True)] or None
        with _quiet():
            for trial, vector in zip(self._trials, fitness, strict=True):
                told = self._worst if vector is None else vector
                if told is None:  # nothing has ever worked: there is no worst fitness yet
                    self._study.tell(trial, state=TrialState.FAIL)
                else:
                    self._study.tell(trial, told)

    def _drawn(self, trial: Trial) -> Point:
        """A point of which a trial is asked only for what is active, as Optuna's users do it."""
        dimensions = self._coordinates.dimensions
        values = [dimension.start for dimension in dimensions]
        for i in sorted(range(len(values)), key=lambda i: bool(dimensions[i].needs)):
            if not self._coordinates.is_asleep(i, values):
                values[i] = _from_optuna(dimensions[i], _suggest(trial, dimensions[i]))
        return tuple(values)

    def _decode(self, params: dict[str, Any]) -> Point:
        dimensions = self._coordinates.dimensions
        return tuple(_from_optuna(d, params[d.name]) for d in dimensions)

    def _sampler_parameters(self) -> list[str]:
        return list(inspect.signature(self._sampler_class.__init__).parameters)


class _AlwaysActive(CmaEsSampler):
    """CMA-ES over what is always active; every other parameter is the independent sampler's."""

    def __init__(self, needy: set[str], **options: Any) -> None:
        super().__init__(**options)
        self._needy = needy

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Without those that have been active in every trial so far, but need not be."""
        found = super().infer_relative_search_space(study, trial)
        return {name: one for name, one in found.items() if name not in self._needy}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.kind == "categorical":  # by index: Optuna takes True for 1
        return CategoricalDistribution(range(len(dimension.choices)))
    if dimension.kind == "int":
        return IntDistribution(*integer_range(dimension), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    if dimension.kind == "categorical":
        return trial.suggest_categorical(dimension.name, range(len(dimension.choices)))
    if dimension.kind == "int":
        return trial.suggest_int(dimension.name, *integer_range(dimension), log=dimension.log)
    low, high = float(dimension.low), float(dimension.high)
    return trial.suggest_float(dimension.name, low, high, log=dimension.log)


def _to_optuna(dimension: Dimension, value: Value) -> Value:
    return choice_index(dimension, value) if dimension.kind == "categorical" else value


def _from_optuna(dimension: Dimension, value: Any) -> Value:
    if dimension.kind == "categorical":
        return dimension.choices[int(value)]
    if dimension.kind == "int":
        return int(value)
    return rounded(dimension, float(value))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's log and its notices about experimental options, as long as it lasts."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
