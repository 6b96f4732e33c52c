"""Declares the shape of every kind of journal event, for `event_check` to check.

A shape is a type of JSON (`float` takes whole numbers too, `object` anything), None, a tuple of
alternatives, [shape], {type: shape} for any names, {"key": shape, "key?": shape} for these keys
(those with a ? may be missing), or one of `Known`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple


class Known(Enum):
    """Shapes that are no type alone; the first two are what an earlier event has to hold."""

    TRIAL = "the number of a trial that was asked"
    TASK = "a task of the study"
    BATCHES = "a pair of a text and a number of rows"
    MOMENT = "seconds since 1970"


_NUMBER = (float, None)  # the likelier first
_WHOLE = (int, None)
_TRIAL, _TASK_NAME = Known.TRIAL, Known.TASK
_ITEMS = {_TASK_NAME: [int]}
_WHO = {"trial": _TRIAL, "kind": str, "name": str, "digest": str}
DIMENSION = {
    "name": str,
    "kind": str,
    "low": float,
    "high": float,
    "log": bool,
    "choices": list,
}
_TASK = {"metric": str, "higher_is_better": bool, "weight": float, "output_type?": str}
_COMPARISON = {
    "against": str,
    "kind": str,
    "trial": _TRIAL,
    "difference": float,
    "low": float,
    "high": float,
    "wins": int,
    "losses": int,
    "ties": int,
    "items": int,
}
_CONSTRAINT = {"constraint": str, "score": float, "limit": float, "kept": bool}
_CONFIG = {
    "base_model": str,
    "models": [str],
    "space": (str, dict),
    "evaluate": {"tasks": list, "fitness": str, "items": {"per_generation": int}},
    "search": {"optimizer": str, "trials": int, "seed": int},
    "workers": {"count": int},
    "output": {"dtype": str, "save_model": bool},
}
_STUDY = {
    "version": str,
    "versions?": {str: str},
    "config": _CONFIG,
    "space": dict,
    "dimensions": [DIMENSION],
    "protocol": str,
    "fingerprints": {str: str},
    "parameters": int,
    "layers": _WHOLE,
    "device": str,
    "tasks": {str: _TASK},
    "pools": {str: _ITEMS},
    "shard_items?": int,
    "warnings": [str],
    "task_code?": dict,
    "steps?": [float],
    "elsewhere?": bool,
}
_ASKED = {
    "trial": int,
    "kind": str,
    "name": str,
    "generation": (None, int),
    "index": int,
    "point": (list, None),
    "recipe": dict,
    "digest": str,
}
_SHAPES: dict[str, dict[str, Any]] = {
    "journal": {"format": int},
    "opened": {},
    "study": _STUDY,
    "changed": {"differences": [str], "now": dict},
    "asked": {"trials": [_ASKED], "items": (_ITEMS, None)},
    "outcomes": {
        "trial": _TRIAL,
        "phase": str,
        "digest": str,
        "mode": str,
        "rows": list,
        "seconds": {str: float},
        "worker": str,
        "batches?": [Known.BATCHES],
        "halvings?": int,
        "errors?": object,
        "reused?": str,
        "rescored?": bool,
    },
    "scored": {"trial": _TRIAL, "scores": {_TASK_NAME: float}},
    "failed": {"trial": _TRIAL, "phase": str, "kind": str, "message": str},
    "told": {
        "generation": int,
        "trials": [_TRIAL],
        "fitness": [_NUMBER],
        "reference?": ({"trial": _TRIAL, "fitness": _NUMBER}, None),
        "correlation": _NUMBER,
        "objectives?": ([([float], None)], None),
        "violations?": ([_NUMBER], None),
    },
    "raced": {
        "rung": int,
        "alive": [_TRIAL],
        "out": [_TRIAL],
        "scores": {_TRIAL: float},
        "winner": (_TRIAL, None),
        "contenders?": [_TRIAL],
        "items?": int,
    },
    "chosen": {"trial": _TRIAL, "instead_of": _TRIAL, "reason": str},
    "warning": {"kind": str, "message": str, "trial?": int, "generation?": int},
    "search_ended": {"reason": str, "trials": int, "wanted": int},
    "verdict": {
        "winner": _WHO,
        "race_winner": _WHO,
        "improvement_shown": bool,
        "sentence": str,
        "scores": {str: {_TASK_NAME: float}},
        "comparisons": [_COMPARISON],
        "constraints?": [_CONSTRAINT],
        "confidence?": float,
        "note?": str,
        "reproduce?": (str, None),
    },
    "exported": {
        "trial": _TRIAL,
        "model": (str, None),
        "weights_digest": (str, None),
        "no_mergekit?": (str, None),
    },
}


class Keys(NamedTuple):
    """A shape of the keys that a mapping has: (key, whether it must be there, shape)."""

    keys: tuple[tuple[str, bool, Any], ...]

    @classmethod
    def of(cls, shape: Any) -> Any:
        """A shape, with this in the place of every ``{"key": shape, …}`` in it."""
        if isinstance(shape, dict) and all(isinstance(key, str) for key in shape):
            some = [(k.removesuffix("?"), k[-1] != "?", cls.of(s)) for k, s in shape.items()]
            return cls(tuple(some))
        if isinstance(shape, dict):
            return {key: cls.of(inner) for key, inner in shape.items()}
        if isinstance(shape, list | tuple):
            return type(shape)(map(cls.of, shape))
        return shape


EVENTS = {kind: Keys.of({**shape, "time?": Known.MOMENT}) for kind, shape in _SHAPES.items()}


def upgraded(event: dict[str, Any]) -> dict[str, Any]:
    """An event in today's form: version 0.1.0 named a verdict's race winner only if it lost.

    It then stood under ``contender``, also among the scores.
    """
    if event["event"] != "verdict" or "race_winner" in event or "winner" not in event:
        return event
    event = {**event, "race_winner": event.get("contender") or event["winner"]}
    event.pop("contender", None)
    scores = event.get("scores")
    if isinstance(scores, dict) and "contender" in scores:
        renamed = {"contender": "race_winner"}
        event["scores"] = {renamed.get(name, name): of_task for name, of_task in scores.items()}
    return event
