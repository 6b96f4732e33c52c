"""Phase 0: parents and tasks are checked, and what is asked for is compared with the journal."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from evomerge import __version__
from evomerge.errors import UserError
from evomerge.study.ledger import shard_items
from evomerge.study.open_study import OpenStudy
from evomerge.study.pools import split

# What may differ when a study is resumed: how long, where, and what is kept.
_FREE = {("search", "trials"), ("search", "deadline"), ("workers",), ("output", "save_model")}

_PACKAGES = ("torch", "transformers", "tokenizers", "lm_eval", "cma", "cmaes", "optuna")


def finished(study: OpenStudy) -> Mapping[str, Any] | None:
    """The verdict of a study that has nothing left to do."""
    record, wanted = study.record, study.config.search.trials
    if record.study is None or record.verdict is None or record.exported is None:
        return None
    ended = record.search_ended
    asked = sum(len(g.trials) for g in record.generations.values())
    enough = ended is not None and (ended["trials"] >= wanted or ended["wanted"] >= wanted)
    whole = record.exported["model"] is not None or not study.config.output.save_model
    if asked and enough and whole:
        return {k: v for k, v in record.verdict.items() if k not in ("event", "time")}
    return None


def refuse_another(study: OpenStudy, elsewhere: bool = False) -> None:
    """Refuse to resume with a study that asks for something else.

    Args:
        study: What is asked for now, with the journal of the run folder.
        elsewhere: Whether its trials are evaluated elsewhere.

    Raises:
        UserError: Names the first key that differs.
    """
    past = study.record.study
    if past is None:
        return
    if bool(past.get("elsewhere")) != elsewhere:
        is_told = "scores its trials with its own workers: call optimize() or confirm()"
        if past.get("elsewhere"):
            is_told = "is told its scores from elsewhere: go on with ask() and tell()"
        raise UserError(f"{study.directory}: this study {is_told}, or start another run folder")
    old, new = _fixed(past["config"]), _fixed(study.config.to_dict())
    if old != new:
        raise UserError(
            f"{study.directory}: this run began with another study: "
            f"{_first_difference(old, new, 'study')}; start another run folder"
        )


def check(study: OpenStudy) -> None:
    """Have a worker check parents and tasks; begin the journal, or compare with it.

    Raises:
        UserError: They do not work together, or are not those that the study began with.
    """
    first = study.space.fill([dimension.start for dimension in study.space.dimensions])
    told = study.ledger.request(do="describe", recipe=first.to_dict())
    if "stamp" in told:
        study.ledger.expect({"stamp": told["stamp"], "fingerprints": told["fingerprints"]})
    event = _study_event(study, told)
    past = study.record.study
    if past is None:
        study.ledger.log(event)
        return
    for key, what in (("fingerprints", "a parent's weights"), ("protocol", "the tasks")):
        if past[key] != event[key]:
            named = _first_difference(past[key], event[key], key)
            raise UserError(
                f"{study.directory}: {what} changed since this study began ({named}); "
                "put back what it began with, or start another run folder"
            )


def _study_event(study: OpenStudy, told: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = told["evaluation"]
    keys = evaluation["item_keys"]
    ids = evaluation["items"]
    shares = study.config.evaluate.items.shares
    pools = {
        pool: {task: [ids[task][i] for i in chosen] for task, chosen in items.items()}
        for pool, items in split(keys, shares, study.seed).items()
    }
    tasks = {
        task: {
            "metric": metric["name"],
            "higher_is_better": metric["higher_is_better"],
            "weight": evaluation["weights"][task],
            "output_type": evaluation["output_types"][task],
        }
        for task, metric in evaluation["metrics"].items()
    }
    return {
        "event": "study",
        "format": 1,
        "version": __version__,
        "versions": _versions(),
        "config": study.config.to_dict(),
        "space": study.space.document,
        "dimensions": [asdict(d) for d in study.space.dimensions],
        "protocol": evaluation["digest"],
        "fingerprints": told["fingerprints"],
        "parameters": told["parameters"],
        "layers": told["layers"],
        "device": told["device"],
        "tasks": tasks,
        "pools": pools,
        "shard_items": shard_items(study.config),
        "warnings": evaluation["warnings"],
    }


def _fixed(config: Mapping[str, Any], path: tuple[str, ...] = ()) -> Any:
    """A configuration without what may change between runs."""
    return {
        key: _fixed(value, (*path, key)) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if (*path, key) not in _FREE
    }


def _first_difference(old: Any, new: Any, path: str) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{path}.{key}")
    return f"{path} was {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _versions() -> dict[str, str]:
    """Of Python and of what scores, merges and searches, for whoever repeats the study."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
