"""Writes requests to workers and their answers as JSON data, and reads them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from evomerge.calibration.requests import (
    Collect,
    Collected,
    Measure,
    Measured,
    Rehearse,
    Rehearsed,
    Sample,
    Sampled,
    Train,
)
from evomerge.study.workers.requests import (
    Answer,
    Describe,
    Description,
    Document,
    Evaluate,
    EvaluateTogether,
    ExpectedParents,
    Export,
    ExportAdapter,
    Exported,
    ExportedAdapter,
    Failure,
    Gradient,
    Gradients,
    Request,
    Scores,
    ScoresTogether,
    Show,
    Shown,
    Suited,
    SuitTogether,
    Translate,
    Translation,
)

_REQUESTS: dict[str, type[Request]] = {
    "describe": Describe,
    "evaluate": Evaluate,
    "evaluatetogether": EvaluateTogether,
    "suittogether": SuitTogether,
    "gradient": Gradient,
    "show": Show,
    "export": Export,
    "exportadapter": ExportAdapter,
    "translate": Translate,
    "collect": Collect,
    "measure": Measure,
    "sample": Sample,
    "rehearse": Rehearse,
    "train": Train,
}
_ANSWERS: dict[str, type[Answer]] = {  # by a key that the others do not have; the order counts
    "evaluation": Description,
    "coefficients": Gradients,
    "counts": ScoresTogether,
    "possible": Suited,
    "statistic": Measured,
    "unmade": Sampled,
    "rows_read": Rehearsed,
    "rows": Scores,
    "written": Shown,
    "why_not": Translation,
    "no_adapter": ExportedAdapter,
    "collected": Collected,
    "weights_digest": Exported,
}


def write_request(request: Request) -> Document:
    """Turn a request into JSON data; fields at their default are left out.

    >>> write_request(Translate({"dtype": "float32"}))
    {'do': 'translate', 'recipe': {'dtype': 'float32'}}
    """
    document = {"do": type(request).__name__.lower(), **_changed(request)}
    if "parents" in document:
        document["parents"] = _changed(document["parents"])
    return document


def read_request(document: Mapping[str, Any]) -> Request:
    """Read a request that `write_request` wrote."""
    values = {key: value for key, value in document.items() if key != "do"}
    if "parents" in values:
        values["parents"] = ExpectedParents(**values["parents"])
    return _REQUESTS[document["do"]](**values)


def write_answer(answer: Answer) -> Document:
    """Turn an answer into JSON data; fields at their default are left out.

    >>> write_answer(Failure("oom", "out of memory"))
    {'failed': {'kind': 'oom', 'message': 'out of memory'}}
    """
    return {"failed": _changed(answer)} if isinstance(answer, Failure) else _changed(answer)


def read_answer(document: Mapping[str, Any]) -> Answer:
    """Read an answer that `write_answer` wrote."""
    if "failed" in document:
        return Failure(**document["failed"])
    answer_type = next(made for key, made in _ANSWERS.items() if key in document)
    return answer_type(**document)


def _changed(value: Request | Answer | ExpectedParents) -> Document:
    values = ((one, getattr(value, one.name)) for one in fields(value))
    return {one.name: content for one, content in values if content != one.default}
