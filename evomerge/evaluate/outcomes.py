"""What scoring one document with one set of weights gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Row = list[str | int | float | None]


@dataclass(frozen=True)
class Outcome:
    """The result of one item (a document of a task).

    Attributes:
        task: The lm-eval task.
        doc_id: The document's number in that task.
        metric: The task's own metric on this document; ``None`` if it was not computed.
        smooth: How nearly the answer is right, in [0, 1] and higher is better whatever the
            metric's direction; ``None`` if it was not computed.
        truncated: Whether generation ran into its length limit without a stop.
        extracted: Whether the task's filter found an answer in what was generated.
        degenerate: Whether what was generated is no answer (`degenerate`), and the metric does not
            hold it for right.
    """

    task: str
    doc_id: int
    metric: float | None = None
    smooth: float | None = None
    truncated: bool = False
    extracted: bool = True
    degenerate: bool = False

    def to_row(self) -> Row:
        """The JSON form: [task, doc_id, metric, smooth, 0 or 1, 0 or 1], and 1 if degenerate.

        >>> Outcome("sort", 3, metric=1.0).to_row()
        ['sort', 3, 1.0, None, 0, 1]
        >>> Outcome("sort", 3, metric=0.0, degenerate=True).to_row()
        ['sort', 3, 0.0, None, 0, 1, 1]
        """
        row: Row = [
            self.task,
            self.doc_id,
            self.metric,
            self.smooth,
            int(self.truncated),
            int(self.extracted),
        ]
        return [*row, 1] if self.degenerate else row

    @classmethod
    def from_row(cls, row: Sequence[str | int | float | None]) -> Outcome:
        """Read what `to_row` wrote.

        >>> Outcome.from_row(["sort", 3, None, 0.5, 0, 1]).to_row()
        ['sort', 3, None, 0.5, 0, 1]
        >>> Outcome.from_row(["sort", 3, 0.0, None, 1, 0, 1]).degenerate
        True
        """
        if len(row) not in (6, 7) or not isinstance(row[0], str) or not isinstance(row[1], int):
            raise ValueError(
                "an outcome row is [task, doc_id, metric, smooth, truncated, extracted] (and 1 if "
                f"degenerate), but got {list(row)!r}"
            )
        task, doc_id, metric, smooth, truncated, extracted, *degenerate = row
        return cls(
            task=str(task),
            doc_id=int(doc_id),  # type: ignore[arg-type]  # checked above
            metric=None if metric is None else float(metric),
            smooth=None if smooth is None else float(smooth),
            truncated=bool(truncated),
            extracted=bool(extracted),
            degenerate=bool(degenerate and degenerate[0]),
        )


class NonFiniteError(ArithmeticError):
    """The model's logits were NaN or infinite on an item: the weights are broken, not the user."""

    def __init__(self, task: str, doc_id: int) -> None:
        super().__init__(f"the model's logits are not finite on task '{task}', document {doc_id}")
        self.task = task
        self.doc_id = doc_id

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, int]]:
        return type(self), (self.task, self.doc_id)
