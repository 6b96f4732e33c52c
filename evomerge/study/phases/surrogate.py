"""Follows through a search how well smooth score and loss rank recipes as the metric does."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.evaluate.outcomes import ScoreKind
from evomerge.study.context import StudyRun
from evomerge.study.phases.baseline import Baseline
from evomerge.study.phases.dead_tasks import has_dead_tasks
from evomerge.study.statistics.correlation import LOW, rank_correlation
from evomerge.study.wanted import Items, Wanted

LEADERS = 24  # how many of the last generations' leaders count, besides the anchors
STEPS = 6  # checked steps, from which on a loss that ranks the other way is worth a warning


@dataclass(frozen=True)
class _Leader:
    fitness: float | None  # None where no smooth score was computed
    loss: float | None
    wanted: Wanted


class SurrogateCheck:
    """Rank correlation of the smooth score with the metric, over anchors and last leaders.

    A generation's leader, its best trial by the smooth score, is scored by the metric while the
    next generation is scored, so that no worker waits for it alone.
    """

    def __init__(self, study: StudyRun, baseline: Baseline):
        self._study = study
        self._by_metric = study.config.evaluate.fitness == "metric"
        self._pairs = baseline.pairs()
        self._led: list[_Leader] = []  # whose metric was not taken in yet
        self._leaders: deque[tuple[float, float]] = deque(maxlen=LEADERS)
        self._steps: deque[tuple[float, float]] = deque(maxlen=LEADERS)

    @property
    def wanted(self) -> list[Wanted]:
        """The last leader's metric."""
        return [leader.wanted for leader in self._led[-1:]]

    def lead(
        self,
        trials: Sequence[int],
        values: Sequence[float | None],
        items: Items,
        kind: ScoreKind = "smooth",
    ) -> None:
        """Remember the leader of a scored generation, to be scored by the metric next.

        Args:
            trials: The generation's.
            values: Their fitness; ``None`` where one failed.
            items: What they were scored on.
            kind: The score that `values` are of; the metric of the leader is then known already.
        """
        scored = [(v, -n) for v, n in zip(values, trials, strict=True) if v is not None]
        if not scored:
            return
        value, number = max(scored)
        record = self._study.record
        loss = record.gradients.loss_of(record.trials[-number].digest, items)
        if loss is not None or not self._by_metric:
            smooth = value if kind == "smooth" and not self._by_metric else None
            self._led.append(_Leader(smooth, loss, Wanted([-number], items, "metric", "search")))

    def correlation(self) -> float | None:
        """Return the rank correlation with the last leader; ``None`` if fitness is the metric."""
        pairs: list[tuple[float, float]] = []
        steps: list[tuple[float, float]] = []
        while (
            self._led and max(len(pairs), len(steps)) < LEADERS
        ):  # of a long past, only as many as count
            leader = self._led.pop()
            wanted = leader.wanted
            rows = self._study.outcomes(wanted.trials, wanted.items, "metric", "search")
            for outcomes in rows.values():
                if outcomes is not None:
                    by_metric = self._study.fitness(outcomes, "metric")
                    pairs += [] if leader.fitness is None else [(leader.fitness, by_metric)]
                    steps += [] if leader.loss is None else [(-leader.loss, by_metric)]
        self._led.clear()
        self._leaders.extend(reversed(pairs))
        self._steps.extend(reversed(steps))
        return None if self._by_metric else rank_correlation([*self._pairs, *self._leaders])

    @property
    def loss_correlation(self) -> float | None:
        """The rank correlation of minus the loss with the metric, over the steps checked so far."""
        return rank_correlation(list(self._steps))

    def _warn_if_loss_misleads(self, generation: int) -> None:
        """Warn, once in a search, if the loss falls and the metric does not rise."""
        correlation, kind = self.loss_correlation, "loss"
        warned = any(warning.kind == kind for warning in self._study.record.warnings)
        if correlation is not None and correlation < 0 and len(self._steps) >= STEPS and not warned:
            self._study.ledger.warn(
                kind,
                f"generation {generation}: the metric does not rise while the loss falls (rank "
                f"correlation {correlation:.2f} over {len(self._steps)} steps): consider another "
                "options.loss, or search.optimizer: catcma",
                generation=generation,
            )

    def warn_if_low(self, correlation: float | None, generation: int) -> None:
        """Warn once whenever the smooth score stops ranking as the metric does."""
        self._warn_if_loss_misleads(generation)
        record = self._study.record
        before = record.generations.get(generation - 1)
        was_low = before is not None and before.correlation is not None and before.correlation < LOW
        if correlation is None or correlation >= LOW or was_low:
            return
        if not any(warning.generation == generation for warning in record.warnings):
            remedy = "consider fitness: metric next time"
            if has_dead_tasks(self._study):
                remedy = "mend the tasks in which nobody scores first"
            self._study.ledger.warn(
                "correlation",
                f"generation {generation}: the smooth score ranks recipes differently from the "
                f"metric (rank correlation {correlation:.2f}): {remedy}",
                generation=generation,
            )
