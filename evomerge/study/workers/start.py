"""Starts a worker: it checks versions, and makes the evaluator that answers its requests."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.sandbox.client import remember
from evomerge.core.errors import UserError
from evomerge.core.plugins import FILE
from evomerge.study.config import StudyConfig
from evomerge.study.extensions import load_extensions
from evomerge.study.versions import difference, versions
from evomerge.study.workers.evaluator import Evaluator
from evomerge.study.workers.failures import described, failure, kind_of
from evomerge.study.workers.requests import Failure


def start(config: Mapping[str, Any]) -> Evaluator | Failure:
    """Make an evaluator, or the failure that answers every request if that is impossible.

    Args:
        config: The pool's start message: the study's configuration, the driver's ``versions``,
            which must equal ours, its inspections of model files (``inspected``), and its
            ``folder``, which becomes this process's where there is such a folder.
    """
    document = dict(config)
    with contextlib.suppress(OSError):  # on another machine; a file that is missed is named later
        os.chdir(document.pop("folder", os.curdir))
    remember(document.pop("inspected", {}))
    expected = dict(document.pop("versions", versions()))
    files = {name: expected.pop(name) for name in list(expected) if name.startswith(FILE)}
    here = {name: text for name, text in versions().items() if name in expected}
    if difference(expected, here):
        return _other_versions(difference(expected, here))
    try:
        study = StudyConfig.from_dict(document, Path("/"))
        load_extensions(study)
        there = {name: text for name, text in versions().items() if name in files}
        if difference(files, there):
            return _other_versions(difference(files, there))
        return Evaluator(study)
    except UserError as error:
        return failure("study", str(error))
    except Exception as error:  # a library may raise anything on a device that it cannot use
        kind = kind_of(error)
        return failure("study" if kind == "task" else kind, described(error))


def _other_versions(differences: str | None) -> Failure:
    return failure(
        "study",
        f"a worker on {socket.gethostname()} runs other versions than the driver "
        f"({differences}): install the same versions on both",
    )
