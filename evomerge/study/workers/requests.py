"""Requests to workers and their answers; `answers.codec` makes JSON of them.

Every answer but a `Failure` has ``seconds``: ``total``, and often ``build`` and ``forward``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.calibration.requests import Collected, Measured, OfRows, Rehearsed, Sampled
from evomerge.evaluate.outcomes import Mean, ScoreKind

Items = Mapping[str, Sequence[int]]  # document numbers by task
Seconds = Mapping[str, float]
Document = dict[str, Any]  # ready for JSON


@dataclass(frozen=True)
class ExpectedParents:
    """The parents as the worker that described them saw them.

    Attributes:
        stamp: A hash of every file's name, size and time.
        fingerprints: A hash of each model's weights.
    """

    stamp: str
    fingerprints: Mapping[str, str]


@dataclass(frozen=True)
class Describe:
    """Check parents and tasks, and describe them.

    Attributes:
        recipe: A recipe whose fit to the parents is checked as well.
        batches: A score kind and items; the answer says in which batches they are scored.
        halvings: How often to halve the batch size.
        item_digests: Whether to hash what decides each item's score besides the weights.
    """

    recipe: Mapping[str, Any] | None = None
    batches: tuple[ScoreKind, Items] | None = None
    halvings: int = 0
    item_digests: bool = False


@dataclass(frozen=True)
class Evaluate:
    """Build a recipe and score it.

    Attributes:
        recipe: The recipe as plain data.
        shards: Items; each shard is scored in batches of its own.
        mode: The score that is asked for.
        parents: The study stops if the parents differ from these.
        digest: Whether to hash the weights that were scored.
        halvings: How often to halve the batch size.
        ensemble: Score its models side by side instead, by this mean of theirs.
    """

    recipe: Mapping[str, Any]
    shards: Sequence[Items]
    mode: ScoreKind
    parents: ExpectedParents | None = None
    digest: bool = False
    halvings: int = 0
    ensemble: Mean | None = None


@dataclass(frozen=True)
class EvaluateTogether:
    """Score several sums of the same adapters side by side, where that is possible.

    Attributes:
        recipes: The recipes as plain data.
        items: One shard of items.
        mode: The score that is asked for.
        parents, halvings: As for `Evaluate`.
    """

    recipes: Sequence[Mapping[str, Any]]
    items: Items
    mode: ScoreKind
    parents: ExpectedParents | None = None
    halvings: int = 0


@dataclass(frozen=True)
class SuitTogether:
    """Say whether recipes like this one are scored side by side, and whether that is worth it."""

    recipe: Mapping[str, Any]
    items: Items
    mode: ScoreKind
    parents: ExpectedParents | None = None


@dataclass(frozen=True)
class Gradient:
    """Build a recipe, score it, and differentiate a loss by its coefficients.

    Attributes:
        recipe: The recipe as plain data.
        items: The items.
        loss: A name in `evaluate.gradient.losses.FUNCTIONS`.
        weights: What the loss of one item of each task counts.
        piecewise: Whether coefficients count that elect signs, with all signs as they are.
        lines: By task, the parent at the other end of its line; for the loss ``line``.
        measure: Whether to count the memory that it takes.
        parents, halvings: As for `Evaluate`.
    """

    recipe: Mapping[str, Any]
    items: Items
    loss: str
    weights: Mapping[str, float]
    piecewise: bool = False
    lines: Mapping[str, str] | None = None
    measure: bool = False
    parents: ExpectedParents | None = None
    halvings: int = 0


@dataclass(frozen=True)
class Show:
    """Build a recipe and show what it answers to a few items, generated or chosen."""

    recipe: Mapping[str, Any]
    items: Items
    parents: ExpectedParents | None = None
    halvings: int = 0


@dataclass(frozen=True)
class Export:
    """Write a recipe's model to the folder `out`."""

    recipe: Mapping[str, Any]
    out: str
    parents: ExpectedParents | None = None


@dataclass(frozen=True)
class ExportAdapter:
    """Write what a recipe changes of the base as an adapter to the folder `out`.

    Attributes:
        recipe: The recipe as plain data.
        out: The folder.
        rank: The largest; ``None`` for that of `merge.output.merged_adapter`.
        parents: As for `Evaluate`.
    """

    recipe: Mapping[str, Any]
    out: str
    rank: int | None = None
    parents: ExpectedParents | None = None


@dataclass(frozen=True)
class Translate:
    """Translate a recipe to mergekit's format."""

    recipe: Mapping[str, Any]


Request = (
    Describe
    | Evaluate
    | EvaluateTogether
    | SuitTogether
    | Gradient
    | Show
    | Export
    | ExportAdapter
    | Translate
    | OfRows
)


@dataclass(frozen=True)
class Failure:
    """A request failed; `failures` lists the kinds and their consequences."""

    kind: str
    message: str


@dataclass(frozen=True)
class Description:
    """Parents and tasks: the answer to `Describe`.

    Attributes:
        evaluation: The tasks, see `Harness.describe`.
        fingerprints: A hash of each model's weights.
        parameters: Number of parameters of the base, or of the described recipe's model if larger.
        layers, device: Number of layers of the base; the worker's devices.
        batches: A digest of the batches that were asked for.
        stamp: A hash of every parent file's name, size and time.
        generation: A digest of the base's generation_config.json; empty without one.
        streamed: Whether candidates are; then each request reads every parent.
    """

    evaluation: Mapping[str, Any]
    fingerprints: Mapping[str, str]
    parameters: int
    layers: int | None
    device: str
    batches: str | None = None
    stamp: str | None = None
    generation: str | None = None
    streamed: bool = False
    seconds: Seconds = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Outcomes of a recipe: the answer to `Evaluate`.

    Attributes:
        rows: Each item's outcome, as `OutcomeRow.as_written` gives it.
        batches: A digest of the batches of each shard.
        errors: [task, document, message] of each item that could not be graded.
        weights_digest: A hash of the weights, if it was asked for.
        halvings: How often the batch size was halved; the scheduler fills it in.
        rescored: True if the scores replace those of a faulty device; the scheduler fills it in.
    """

    rows: Sequence[Sequence[Any]]
    batches: Sequence[str] = ()
    errors: Sequence[Sequence[Any]] = ()
    weights_digest: str | None = None
    seconds: Seconds = field(default_factory=dict)
    halvings: int = 0
    rescored: bool = False


@dataclass(frozen=True)
class ScoresTogether(Scores):
    """Outcomes of several recipes: the answer to `EvaluateTogether`.

    Attributes:
        rows: Of all recipes, one after the other.
        errors: [recipe's number, task, document, message].
        counts: How many of the rows are each recipe's; 0 for one that failed.
        failures: [recipe's number, kind, message].
        apart: The numbers of those that were built by themselves.
    """

    counts: Sequence[int] = ()
    failures: Sequence[tuple[int, str, str]] = ()
    apart: Sequence[int] = ()


@dataclass(frozen=True)
class Suited:
    """Says whether recipes are scored side by side: the answer to `SuitTogether`.

    Attributes:
        why_not: Why they cannot be, or why it would not pay; empty if they are.
        possible: Whether they can be.
    """

    why_not: str
    possible: bool
    seconds: Seconds = field(default_factory=dict)


@dataclass(frozen=True)
class Gradients(Scores):
    """Outcomes of a recipe and the gradient of a loss: the answer to `Gradient`.

    Attributes:
        loss: The weighted sum of the items' losses.
        coefficients: [parameter, tensor, model, derivative of the loss by it] of each.
        by_factors: Whether adapters' factors were enough, without a gradient of the weights.
        passes: How often the items went forward and backward.
        memory: Bytes for each purpose, in words; empty unless it was measured.
    """

    loss: float = 0.0
    coefficients: Sequence[tuple[str, str, str, float]] = ()
    by_factors: bool = False
    passes: int = 1
    memory: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """[task, document, answer, right answer, prompt] of each item: the answer to `Show`."""

    written: Sequence[Sequence[Any]]
    seconds: Seconds = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """A hash of the written weights, and `ModelExport` as plain data: the answer to `Export`."""

    weights_digest: str
    contents: Mapping[str, Any]
    seconds: Seconds = field(default_factory=dict)


@dataclass(frozen=True)
class ExportedAdapter:
    """An adapter that was written, or why there is none: the answer to `ExportAdapter`.

    Attributes:
        no_adapter: Why no adapter can say what the recipe does.
        rank: The largest of a layer.
        exact: Whether it misses no more than float32 rounds off.
        error: Relative Frobenius norm of what it misses of the merge's change.
        sentence: Both in words.
    """

    no_adapter: str | None
    rank: int = 0
    exact: bool = False
    error: float = 0.0
    sentence: str = ""
    seconds: Seconds = field(default_factory=dict)


@dataclass(frozen=True)
class Translation:
    """A recipe in mergekit's YAML, or why there is none: the answer to `Translate`."""

    mergekit: str | None
    why_not: str | None
    seconds: Seconds = field(default_factory=dict)


Success = (
    Description
    | Scores
    | Suited
    | Shown
    | Exported
    | ExportedAdapter
    | Translation
    | Collected
    | Measured
    | Sampled
    | Rehearsed
)
Answer = Failure | Success
