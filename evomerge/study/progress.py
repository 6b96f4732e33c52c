"""Shows a bar while a study runs in a notebook or a script. The only door to the `tqdm` package."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from evomerge.study.journal.events import Event, ToldEvent, VerdictEvent
from evomerge.study.journal.record import Record

_PHASES = {
    "check": "loading",
    "anchors": "baselines",
    "search": "search",
    "race": "race",
    "verdict": "held-out items",
    "done": "done",
}


class ProgressBar:
    """Counts the search's trials; its text says the phase and the best gain so far.

    Args:
        trials: How many trials the search is for.
        record: The study so far.
    """

    def __init__(self, trials: int, record: Record) -> None:
        self._bar: Any = tqdm(
            total=trials,
            initial=min(record.n_learned, trials),
            unit="trial",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.5,
            leave=True,
        )
        self._describe(record)

    def __call__(self, event: Event, record: Record) -> None:
        """Take in an event that the record already has."""
        if isinstance(event, ToldEvent):
            self._bar.update(len(event.trials))
            leader = record.leader
            if leader is not None:
                sign = "+" if leader.gain is not None else ""
                self._bar.set_postfix_str(f"best {leader.value:{sign}.3f}", refresh=False)
        if isinstance(event, VerdictEvent):
            shown = "improvement shown" if event.improvement_shown else "no improvement shown"
            self._bar.set_postfix_str(shown, refresh=False)
        self._describe(record)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _describe(self, record: Record) -> None:
        phase = _PHASES[record.phase]
        if self._bar.desc != f"{phase}: ":
            self._bar.set_description_str(f"{phase}: ")


def someone_looks() -> bool:
    """Return whether stderr is a terminal, or a notebook shows it."""
    kernel = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(kernel, "kernel") or sys.stderr.isatty()
