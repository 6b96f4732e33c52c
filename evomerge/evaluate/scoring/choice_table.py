"""Judges the multiple-choice documents of a task together: the likeliest choice, and its margin.

This computes lm-eval's ``acc``, ``acc_norm``, ``acc_bytes`` and ``acc_mutual_info`` for all
documents at once; document by document it takes as long as a small model's forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.evaluate.scoring.smooth import smooth_choices
from evomerge.evaluate.tasks.target import Choices


@dataclass(frozen=True)
class ChoiceTable:
    """The choices of documents, by their numbers among the pairs of a plan.

    Attributes:
        pairs: The pair of each choice, padded with 0, (documents, choices).
        alone: The pair of each choice without its context; ``None`` if the metric needs none.
        lengths: Divisor of a choice's log-likelihood in the metric; 1 where padded.
        right: Which choices are right; wrong and padding are `False`.
        wrong: Which are wrong.
    """

    pairs: np.ndarray
    alone: np.ndarray | None
    lengths: np.ndarray
    right: np.ndarray
    wrong: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[tuple[Choices, Sequence[int]]]) -> ChoiceTable:
        """Lay out documents: for each its choices, and the pairs of its requests in order."""
        shape = (len(documents), max(len(choices.lengths) for choices, _ in documents))
        unconditional = documents[0][0].unconditional
        pairs, alone = np.zeros(shape, int), np.zeros(shape, int)
        lengths, right, there = np.ones(shape), np.zeros(shape, bool), np.zeros(shape, bool)
        for row, (choices, numbers) in enumerate(documents):
            count = len(choices.lengths)
            pairs[row, :count] = numbers[:count]
            if unconditional:
                alone[row, :count] = numbers[count : 2 * count]
            lengths[row, :count] = choices.lengths
            right[row, list(choices.golds)] = True
            there[row, :count] = True
        return cls(pairs, alone if unconditional else None, lengths, right, there & ~right)

    def scores(self, totals: np.ndarray) -> np.ndarray:
        """Return each choice's normalised log-likelihood, times its document's mean length.

        Args:
            totals: Log-likelihood of every pair of the plan.
        """
        choice_totals = totals[self.pairs]
        if self.alone is not None:
            choice_totals = choice_totals - totals[self.alone]
        there = self.right | self.wrong
        mean = (self.lengths * there).sum(axis=1) / there.sum(axis=1)
        return choice_totals / self.lengths * mean[:, None]  # type: ignore[no-any-return]

    def judge(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the metric (0 or 1) and the smooth score of every document."""
        scores = self.scores(totals)
        chosen = np.where(self.right | self.wrong, scores, -np.inf).argmax(axis=1)
        metric = self.right[np.arange(len(chosen)), chosen].astype(float)
        return metric, smooth_choices(scores, self.right, self.wrong)
