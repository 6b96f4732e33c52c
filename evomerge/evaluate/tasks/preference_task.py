"""Makes a task of a file of preferences: is the chosen answer likelier than the rejected one?

A line of the file is ``{"prompt": …, "chosen": …, "rejected": …}``; an answer follows the prompt as
it stands, so a space between them belongs to one of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError

_KEYS = ("prompt", "chosen", "rejected")
_MOST_BYTES = 1 << 30


def read_preferences(file: Path) -> list[dict[str, Any]]:
    """Read the documents of a file of preferences, in its order.

    Returns:
        Of each line the ``prompt``, and ``choices``: the chosen answer, then the rejected one.

    Raises:
        UserError: The file cannot be read, is empty, or has a line that is no preference.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise UserError(f"{file}: expected at most {_MOST_BYTES:,} bytes of preferences")
        lines = file.read_bytes().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: expected UTF-8 text, but byte {error.start} is not") from None
    except OSError as error:
        raise UserError(f"{file}: cannot read the preferences: {error.strerror}") from None
    documents = [
        _read(line, f"{file}, line {n}") for n, line in enumerate(lines, 1) if line.strip()
    ]
    if not documents:
        raise UserError(f"{file}: expected a preference a line, but it is empty")
    return documents


def preference_task(name: str, count: int) -> dict[str, Any]:
    """Write lm-eval's configuration of a task with the chosen of two answers as its right one.

    Its documents, see `read_preferences`, are given to lm-eval by the caller.
    """
    return {
        "task": name,
        "output_type": "multiple_choice",
        "num_fewshot": 0,
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": 0,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"preferences": count},
    }


def _read(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where}: expected JSON, but got {line[:60]!r}") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in _KEYS):
        raise UserError(f"{where}: expected texts under {', '.join(_KEYS)}, but got {line[:60]!r}")
    if not row["chosen"] or not row["rejected"] or row["chosen"] == row["rejected"]:
        raise UserError(f"{where}: expected a chosen and another rejected answer, neither empty")
    return {"prompt": row["prompt"], "choices": [row["chosen"], row["rejected"]]}
