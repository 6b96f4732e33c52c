"""Compares the score on items that a recipe was fitted on with that on held-out items.

Coefficients that follow gradients are fitted to the items of their steps. How much of the score is
owed to these items is the gap; an anchor, which was fitted on none, shows by its own gap how much
easier these items are than the held-out ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Overfit:
    """Mean scores by the metric, higher is better, of a race's winner and of the best anchor.

    Attributes:
        items: How many of the items it was fitted on were scored by the metric.
        fitted: The winner's score on these.
        held_out: The winner's score on the held-out items.
        anchor: The name of the best anchor.
        anchor_fitted: The anchor's score on the items that the winner was fitted on.
        anchor_held_out: The anchor's score on the held-out items.
    """

    items: int
    fitted: float
    held_out: float
    anchor: str
    anchor_fitted: float
    anchor_held_out: float

    @property
    def gap(self) -> float:
        """How much better the winner is on the items that it was fitted on.

        >>> round(Overfit(98, 0.95, 0.92, "average", 0.76, 0.75).gap, 3)
        0.03
        """
        return self.fitted - self.held_out

    def __str__(self) -> str:
        """Say it in a line.

        >>> print(Overfit(98, 0.95, 0.92, "average", 0.76, 0.75))
        +0.030: 0.950 on 98 items it was fitted on, 0.920 held out (average: +0.010)
        """
        beside = self.anchor_fitted - self.anchor_held_out
        return (
            f"{self.gap:+.3f}: {self.fitted:.3f} on {self.items:,} items it was fitted on, "
            f"{self.held_out:.3f} held out ({self.anchor}: {beside:+.3f})"
        )
