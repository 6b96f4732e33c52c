"""Types the requests about models' own rows, and their answers; as `study.workers.requests`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evomerge.core import faults
from evomerge.recipe.rows import Calibration, Data

if TYPE_CHECKING:
    from evomerge.calibration.statistics import Statistics
    from evomerge.calibration.store import Stored
    from evomerge.merge.parents.parents import Parents
    from evomerge.recipe.recipe import Recipe


KINDS = ("gram", "fisher", "inputs")  # of statistics


@dataclass(frozen=True)
class Collect:
    """Turn items into rows of text: prompts and right answers.

    Attributes:
        items: Document numbers by task.
    """

    items: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Measure:
    """Make a statistic of a parent from rows of its own, unless it is kept already.

    Attributes:
        model: The parent.
        kind: ``gram``, ``fisher`` or ``inputs``.
        data: The rows, as a recipe names them.
        calibration: How they are read, as a recipe says it.
        parents: The study stops if the parents differ from these (`requests.ExpectedParents`).
    """

    model: str
    kind: str
    data: Mapping[str, str]
    calibration: Mapping[str, Any]
    parents: Any = None


@dataclass(frozen=True)
class Train:
    """Train the gates or the mask of a recipe on its models' rows, unless they are kept already.

    Attributes:
        recipe: The recipe, whose method takes `gates` or `mask`.
        parents: See `Measure`.
    """

    recipe: Mapping[str, Any]
    parents: Any = None


@dataclass(frozen=True)
class Sample:
    """Run one parent on a few of its rows and keep nothing: what will `Measure` take?

    Attributes:
        kind: As for `Measure`.
        data: The rows of each parent, as a recipe names them.
        calibration: How they are read, as a recipe says it.
    """

    kind: str
    data: Mapping[str, Mapping[str, str]]
    calibration: Mapping[str, Any]


@dataclass(frozen=True)
class Rehearse:
    """Train for a few steps and keep nothing: what will `Train` take?

    Attributes:
        recipe: As for `Train`.
    """

    recipe: Mapping[str, Any]


@dataclass(frozen=True)
class Sampled:
    """Forecasts one parent's statistic: the answer to `Sample`.

    Attributes:
        unmade: Parents whose statistic is not kept yet.
        size: Bytes that one takes on disk.
        memory: Bytes that a worker needs while it makes one; 0 if all are kept.
        products: Bytes of the products of one parent that RegMean recalls.
        seconds: ``each``: of one parent; ``fit`` and ``refit``: of RegMean, with all products made
            and with all recalled, 0 for other kinds; ``total``.
    """

    unmade: Sequence[str]
    size: int
    memory: int
    products: int
    seconds: Mapping[str, float] = field(default_factory=dict)


Making = Measure | Train
OfRows = Collect | Making | Sample | Rehearse


@dataclass(frozen=True)
class Collected:
    """Rows of each task, as a file of rows holds them: the answer to `Collect`."""

    collected: Mapping[str, Sequence[Mapping[str, str]]]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Describes a statistic that was made: the answer to `Measure` and `Train`.

    Attributes:
        statistic: A hash of the statistic's content.
        rows: How many rows were read.
        tokens: How many tokens.
        cut: How many rows were cut.
        size: Bytes that are kept.
        seconds: ``total``.
    """

    statistic: str
    rows: int
    tokens: int
    cut: int
    size: int
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Rehearsed:
    """Forecasts the training of a recipe's gates or mask: the answer to `Rehearse`.

    Attributes:
        rows_read: Of all its models together.
        is_kept: Whether it was done before, and nothing is left to do.
        seconds: ``total``: of the whole training; 0 if it is kept.
    """

    rows_read: int
    is_kept: bool
    seconds: Mapping[str, float] = field(default_factory=dict)


def measured(statistics: Statistics, request: Measure) -> Measured:
    """Run a parent on its rows, unless what they say is kept already.

    Raises:
        UserError: The rows cannot be read, or the model does not run on them.
    """
    faults.reach("worker.measure")
    data, calibration = Data(**request.data), Calibration(**request.calibration)
    return _described(statistics.stored(request.model, request.kind, data, calibration))


def trained(statistics: Statistics, recipe: Recipe, parents: Parents) -> Measured:
    """Train the gates or the mask of a recipe, unless they are kept already.

    Raises:
        UserError: The rows cannot be read, or the model does not run on them.
    """
    faults.reach("worker.measure")
    return _described(statistics.trained(recipe, parents))


def _described(stored: Stored) -> Measured:
    about = {key: stored.about[key] for key in ("rows", "tokens", "cut")}
    return Measured(stored.digest, **about, size=stored.size)


def sampled(statistics: Statistics, request: Sample) -> Sampled:
    """Forecast a statistic by the first parent that has none yet.

    Raises:
        UserError: The rows cannot be read, or the model does not run on them.
    """
    data = {model: Data(**one) for model, one in request.data.items()}
    return statistics.sample(request.kind, data, Calibration(**request.calibration))
