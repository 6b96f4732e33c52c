"""Declares every event of a journal as a dataclass; `codec` turns them into JSON and back.

An annotation says what a field must hold, and `event_check` holds journals to it. A field with a
default may be missing in a journal: an earlier version lacked it, or there is nothing to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from evomerge.recipe.space.dimension import Dimension
from evomerge.study.journal.event_marks import Config, Items, Known, TaskName, TrialNumber
from evomerge.study.journal.exports import AdapterExport, ModelExport
from evomerge.study.statistics.outcome import TaskSpec
from evomerge.study.statistics.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event; `time` is when it was written, in seconds since 1970."""

    event_name: ClassVar[str]
    time: Annotated[float, Known.MOMENT] | None = None

    def __init_subclass__(cls, name: str = "") -> None:
        """Register the class under the name that the event has in a journal."""
        cls.event_name = name
        EVENT_TYPES[name] = cls


EVENT_TYPES: dict[str, type[Event]] = {}


@dataclass(frozen=True, kw_only=True)
class HeaderEvent(Event, name="journal"):
    """A journal's first event: the version of its format."""

    format: int


@dataclass(frozen=True, kw_only=True)
class OpenedEvent(Event, name="opened"):
    """A process opened the journal for writing."""

    token: str = ""
    pid: int = 0
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class StudyEvent(Event, name="study"):
    """A study began: all that its trials depend on.

    Attributes:
        version: evomerge's.
        versions: Those of the libraries that scores depend on, by name.
        config: The configuration, as the study file has it.
        space: The search space's document.
        dimensions: What the optimizer searches.
        protocol: The digest of the evaluation: tasks, documents, prompts, metrics, engine.
        fingerprints: Each parent's, by the model's name.
        parameters: How many a model has; 0 with external evaluation.
        layers: How many; ``None`` for a model without layers.
        device: On which the check ran.
        tasks: By name.
        pools: Items by pool and task; empty with external evaluation.
        shard_items: The largest number of items that are scored together.
        warnings: Of the tasks.
        task_code: Digests of the tasks' own code, by file.
        elsewhere: External evaluation: `ask` and `tell`.
        lm_eval_loads: Whether the stock lm_eval command loads such a model.
        batches: Those that later items are scored in, if an ``--allow-changed`` let them differ.
        seals: A hash of each text in `config` that holds a secret, by its path there.
        generation: A digest of the base's generation_config.json; empty without one.
        clusters: Items of race and verdict that belong together: a number by task and item.
    """

    version: str
    config: Config
    space: Mapping[str, Any]
    dimensions: tuple[Dimension, ...]
    protocol: str
    fingerprints: Mapping[str, str]
    parameters: int
    layers: int | None
    device: str
    tasks: Mapping[str, TaskSpec]
    pools: Mapping[str, Items]
    warnings: Sequence[str]
    versions: Mapping[str, str] | None = None
    shard_items: int | None = None
    task_code: Mapping[str, Any] | None = None
    elsewhere: bool = False
    lm_eval_loads: bool = True
    batches: str | None = None
    seals: Mapping[str, str] | None = None
    generation: str | None = None
    clusters: Mapping[TaskName, Mapping[int, int]] | None = None


@dataclass(frozen=True)
class StudyChanges:
    """The fields of the ``study`` event that ``--allow-changed`` replaced."""

    config: Config | None = None
    versions: Mapping[str, str] | None = None
    batches: str | None = None
    seals: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class ChangedEvent(Event, name="changed"):
    """The study was resumed with ``--allow-changed``: the differences in words, the new values."""

    differences: Sequence[str]
    now: StudyChanges


@dataclass(frozen=True, kw_only=True)
class MovedEvent(Event, name="moved"):
    """Models and files were found elsewhere, with the same content: paths are notes.

    Attributes:
        paths: The new path of each old one.
        digests: The new digest of each recipe that names one of them, by the old.
    """

    paths: Mapping[str, str]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class AskedTrial:
    """A trial as it was asked; see `TrialRecord`."""

    trial: int
    kind: str
    name: str
    generation: int | None
    index: int
    point: Sequence[Any] | None
    recipe: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, kw_only=True)
class AskedEvent(Event, name="asked"):
    """Trials were asked together; `items` is what all of them are scored on, if that is fixed."""

    trials: tuple[AskedTrial, ...]
    items: Items | None


@dataclass(frozen=True, kw_only=True)
class OutcomesEvent(Event, name="outcomes"):
    """A worker scored a trial's recipe on some items.

    Attributes:
        trial: Its number.
        phase: ``anchors``, ``search``, ``race``, ``verdict`` or ``landscape``.
        digest: The recipe's.
        mode: ``smooth`` or ``metric``.
        rows: Outcomes, as `OutcomeRow` is written.
        seconds: ``build``, ``forward`` and ``total``.
        worker: Its number.
        batches: For each shard (digest of its batches, number of its rows).
        halvings: How often batches had been halved, because memory ran out.
        errors: Wrong answers that a metric of the tasks raised errors for.
        reused: The run that these were taken from.
        rescored: Replaces earlier rows, because the device that scored them was later found faulty.
        loss: The weighted sum of the items' losses, if a gradient was computed.
        gradient: Its derivative along each dimension of the space.
        passes: How often the items went through the model for it, where more than once.
        together: How many candidates, sums of the same adapters, went through the model side by
            side; ``None`` for one that was built.
    """

    trial: TrialNumber
    phase: str
    digest: str
    mode: str
    rows: Sequence[Any]
    seconds: Mapping[str, float]
    worker: str
    batches: Sequence[Annotated[Any, Known.BATCHES]] = ()
    halvings: int = 0
    errors: Any = None
    reused: str | None = None
    rescored: bool = False
    loss: float | None = None
    gradient: Sequence[float] | None = None
    passes: int | None = None
    together: int | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuredEvent(Event, name="measured"):
    """Models read rows of their own before the search; in a journal once for what came of it.

    Attributes:
        kind: ``gram``, ``fisher``, ``inputs``, ``gates`` or ``mask``.
        models: Whose rows.
        statistic: A hash of what came of it.
        rows: How many rows were read, once.
        item_evaluations: What this counts as, also where an earlier run had made it already.
        seconds: ``total``, of the worker.
    """

    kind: str
    models: Sequence[str]
    statistic: str
    rows: int
    item_evaluations: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class ScoredEvent(Event, name="scored"):
    """A trial was evaluated externally: its score by task."""

    trial: TrialNumber
    scores: Mapping[TaskName, float]


@dataclass(frozen=True, kw_only=True)
class FailedEvent(Event, name="failed"):
    """A trial has no score in a phase; `kind` and `message` say why."""

    trial: TrialNumber
    phase: str
    kind: str
    message: str


@dataclass(frozen=True)
class ReferenceFitness:
    """The reference anchor, and its fitness on a generation's items."""

    trial: TrialNumber
    fitness: float | None


@dataclass(frozen=True, kw_only=True)
class ToldEvent(Event, name="told"):
    """The optimizer learned the fitness of the trials of a generation, which counts from 0.

    Attributes:
        fitness: Of each; ``None`` for one that failed.
        reference: The reference anchor on the same items; ``None`` if none is scored.
        correlation: Rank correlation of smooth score and metric so far.
        objectives: With several objectives, each trial's gains over the reference.
        violations: With constraints, how far each trial breaks them.
        gradients: For an optimizer that follows gradients, each trial's along each dimension.
        loss_correlation: Rank correlation of minus the loss with the metric, over checked steps.
    """

    generation: int
    trials: Sequence[TrialNumber]
    fitness: Sequence[float | None]
    correlation: float | None
    reference: ReferenceFitness | None = None
    objectives: Sequence[Sequence[float] | None] | None = None
    violations: Sequence[float | None] | None = None
    gradients: Sequence[Sequence[float] | None] | None = None
    loss_correlation: float | None = None


@dataclass(frozen=True, kw_only=True)
class RacedEvent(Event, name="raced"):
    """One rung of the race.

    Attributes:
        rung: Counted from 0.
        alive: Trials still in, in order of preference.
        out: Trials that this rung put out.
        scores: Mean of each trial that it compared, higher is better.
        winner: Set by the last rung.
        contenders: Everyone who entered the race.
        items: How many items were looked at so far.
    """

    rung: int
    alive: Sequence[TrialNumber]
    out: Sequence[TrialNumber]
    scores: Mapping[TrialNumber, float]
    winner: TrialNumber | None
    contenders: Sequence[TrialNumber] = ()
    items: int | None = None


@dataclass(frozen=True, kw_only=True)
class ChosenEvent(Event, name="chosen"):
    """Another trial than a race's leader was taken, and why."""

    trial: TrialNumber
    instead_of: TrialNumber
    reason: str


@dataclass(frozen=True, kw_only=True)
class WarningEvent(Event, name="warning"):
    """Something that the user should know; the study went on."""

    kind: str
    message: str
    trial: int | None = None
    generation: int | None = None


@dataclass(frozen=True, kw_only=True)
class SearchEndedEvent(Event, name="search_ended"):
    """The search ended after `trials` of the `wanted`; `reason` is ``trials``, ``deadline``, …"""

    reason: str
    trials: int
    wanted: int


@dataclass(frozen=True, kw_only=True)
class VerdictEvent(Verdict, Event, name="verdict"):
    """The verdict."""


@dataclass(frozen=True, kw_only=True)
class ExportedEvent(Event, name="exported"):
    """The recommended recipe was exported.

    Attributes:
        trial: Its number.
        model: The model's folder in the run folder; ``None`` with ``output.save_model: false``.
        weights_digest: Of the exported weights.
        no_mergekit: Why mergekit cannot run the recipe; ``None`` where it can.
        adapter: The adapter beside the model; ``None`` where none was asked for.
        contents: Size and code of the model; ``None`` without one, or from an earlier version.
    """

    trial: TrialNumber
    model: str | None
    weights_digest: str | None
    no_mergekit: str | None = ""
    adapter: AdapterExport | None = None
    contents: ModelExport | None = None
