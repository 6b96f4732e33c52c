"""Defines the outcome of scoring one document with one set of weights, and the kinds of score."""

from __future__ import annotations

from typing import Literal, NamedTuple

ScoreKind = Literal["smooth", "metric"]
Mean = Literal["probabilities", "logits"]  # of models that are scored side by side
Item = tuple[str, int]  # (task, doc_id)
# Where the loss ``line`` is taken besides the merge; at the parent itself there is no gradient.
ON_THE_LINE = (0.2, 0.4, 0.6, 0.8)
SIZE_METRICS = {"layers": "layers", "parameters": "million parameters"}  # of what is counted
LARGEST_SCORE = 1e60  # in magnitude; a variance squared stays finite


def score_kind_of(loss: str) -> ScoreKind:
    """Return the score that comes with the gradient of a loss: of right or of written answers.

    >>> score_kind_of("answers"), score_kind_of("entropy")
    ('smooth', 'metric')
    """
    return "metric" if loss == "entropy" else "smooth"


def passes_of(loss: str) -> int:
    """Return how often a loss runs its items forward and backward.

    >>> passes_of("answers"), passes_of("line")
    (1, 5)
    """
    return 1 + len(ON_THE_LINE) if loss == "line" else 1


class OutcomeRow(NamedTuple):
    """One item's outcome, with its columns in the order of the journal.

    Attributes:
        task: The task.
        doc_id: The document's number in that task.
        metric: The task's own metric on this document, in the metric's own direction; ``None`` if
            it was not computed.
        smooth: How nearly the answer is right, in [0, 1] and higher is better whatever the
            metric's direction; ``None`` if it was not computed.
        truncated: 1 if generation ran into its length limit without a stop.
        extracted: 1 if the task's filter extracted an answer from the generated text.
        degenerate: 1 if the generated text is no answer (`scoring.degenerate`) and the metric does
            not count it as right.
    """

    task: str
    doc_id: int
    metric: float | None = None
    smooth: float | None = None
    truncated: int = 0
    extracted: int = 1
    degenerate: int = 0

    def as_written(self) -> list[object]:
        """Return the JSON form of the journal and of workers, without `degenerate` where it is 0.

        >>> OutcomeRow("sort", 3, metric=1.0).as_written()
        ['sort', 3, 1.0, None, 0, 1]
        >>> OutcomeRow("sort", 3, metric=0.0, degenerate=1).as_written()
        ['sort', 3, 0.0, None, 0, 1, 1]
        """
        return list(self if self.degenerate else self[:-1])


class NonFiniteError(ArithmeticError):
    """The model's logits are NaN or infinite on an item: the weights are broken, not the task."""

    def __init__(self, task: str, doc_id: int) -> None:
        super().__init__(f"the model's logits are not finite on task '{task}', document {doc_id}")
        self.task = task
        self.doc_id = doc_id

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, int]]:
        return type(self), (self.task, self.doc_id)
