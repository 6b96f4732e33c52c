"""Puts Optuna's samplers behind the ask/tell contract. The only door to the `optuna` package.

TPE: Watanabe 2023, https://arxiv.org/abs/2304.11127. Sobol's sequence: Sobol 1967,
https://doi.org/10.1016/0041-5553(67)90144-9, scrambled after Owen 1998,
https://doi.org/10.1006/jcom.1998.0487.
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
# In a conditional space a trial of these samplers has only the parameters that are active, as in a
# study written for Optuna; the others need every parameter, and get the start where it is inactive.
_ACTIVE_ONLY = ("CmaEsSampler", "TPESampler")
_IMPUTED = ("GPSampler", "NSGAIIISampler", "NSGAIISampler")
_DO_NOT_ADAPT = ("QMCSampler", "RandomSampler")

# All points of a generation are asked before the first is told, so TPE needs constant_liar to keep
# them apart, and one joint model of all dimensions; both are the defaults from Optuna 5 on.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "TPESampler": {"multivariate": True, "constant_liar": True},
    "QMCSampler": {"scramble": True},  # otherwise the seed changes nothing
}


class OptunaSampler(Optimizer):
    """A sampler of Optuna on a study in memory, asked for a generation at a time.

    The first point of all is the initial one. A failed point gets the worst fitness so far: with
    Optuna's FAIL state TPE would forget it and ask for its neighbours again. Samplers that adapt
    compare fitness across generations, so they suit a fitness whose items stay the same.

    An inactive parameter is missing in the trials of TPE, and at its start in those of NSGA-II and
    GP; CMA-ES searches only what is always active and leaves the rest, choices too, to TPE.
    QMC draws every parameter at every point.

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
        self.adapts = self.compares_generations = sampler not in _DO_NOT_ADAPT
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
        self._active_only = conditional and self._sampler in _ACTIVE_ONLY
        self._imputed = conditional and self._sampler in _IMPUTED
        kind = self._sampler_class
        options["seed"] = int(np.random.SeedSequence(self._seed).generate_state(1)[0])
        if self._active_only and "group" in parameters:
            options["group"] = options.get("multivariate", False)
        if self._active_only and self._sampler == "CmaEsSampler":
            kind = _AlwaysActiveCmaEs
            options["conditional"] = {d.name for d in self._coordinates.dimensions if d.needs}
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
            if self._active_only:
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
        """Put inactive parameters at their start in the trials.

        So to a model of the fitness equal recipes are equal, and no child inherits a value without
        effect. Hutter 2011, https://doi.org/10.1007/978-3-642-25566-3_40, section 4.1.
        """
        for trial, point in zip(self._trials, points, strict=True):
            for i, dimension in enumerate(self._coordinates.dimensions):
                if self._coordinates.is_inactive(i, point):
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
                values = self._worst if vector is None else vector
                if values is None:  # nothing has ever worked: there is no worst fitness yet
                    self._study.tell(trial, state=TrialState.FAIL)
                else:
                    self._study.tell(trial, values)

    def _drawn(self, trial: Trial) -> Point:
        """Draw a point, of which the trial has only the parameters that are active."""
        dimensions = self._coordinates.dimensions
        values = [dimension.start for dimension in dimensions]
        for i in sorted(range(len(values)), key=lambda i: bool(dimensions[i].needs)):
            if not self._coordinates.is_inactive(i, values):
                values[i] = _from_optuna(dimensions[i], _suggest(trial, dimensions[i]))
        return tuple(values)

    def _decode(self, params: dict[str, Any]) -> Point:
        dimensions = self._coordinates.dimensions
        return tuple(_from_optuna(d, params[d.name]) for d in dimensions)

    def _sampler_parameters(self) -> list[str]:
        return list(inspect.signature(self._sampler_class.__init__).parameters)


class _AlwaysActiveCmaEs(CmaEsSampler):
    """CMA-ES over what is always active; the independent sampler draws every other parameter."""

    def __init__(self, conditional: set[str], **options: Any) -> None:
        super().__init__(**options)
        self._conditional = conditional

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Leave out parameters that were active in every trial so far, but need not be."""
        space = super().infer_relative_search_space(study, trial)
        return {name: part for name, part in space.items() if name not in self._conditional}


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
