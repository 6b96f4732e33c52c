"""Annotations of events' fields that say more than a type: what must be known, which keys must be.

`event_shapes` reads them, and `event_check` holds journals to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any


class Known(Enum):
    """Constraints that a type alone does not express; the first two depend on earlier events."""

    TRIAL = "the number of a trial that was asked"
    TASK = "a task of the study"
    BATCHES = "a pair of a text and a number of rows"
    MOMENT = "seconds since 1970"


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys that a mapping must have, with the type of each; it may have others, too."""

    types: Mapping[str, Any]


TrialNumber = Annotated[int, Known.TRIAL]
TaskName = Annotated[str, Known.TASK]
Items = Mapping[TaskName, Sequence[int]]
Config = Annotated[
    Mapping[str, Any],
    Keys(
        {
            "base_model": str,
            "models": Sequence[str],
            "space": str | Mapping[str, Any],
            "evaluate": Keys(
                {"tasks": list, "fitness": str, "items": Keys({"per_generation": int})}
            ),
            "search": Keys({"optimizer": str, "trials": int, "seed": int}),
            "workers": Keys({"count": int | str}),
            "output": Keys({"dtype": str, "save_model": bool}),
        }
    ),
]
