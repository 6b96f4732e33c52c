"""Shows items that the winner won and lost, with the prompt and both answers.

The texts are those of tasks and models: none of them is trusted, and the page escapes all.
"""

from __future__ import annotations

import json
from typing import Any

from evomerge.report.numbers import number
from evomerge.report.run import Run

FILE = "best/examples.json"
_PROMPT, _ANSWER = 1200, 600  # characters that are shown of a text


def section(run: Run) -> dict[str, Any]:
    """Return the examples that the study wrote when it ended; empty where there are none."""
    try:
        document = json.loads((run.folder / FILE).read_text("utf-8"))
        if run.ours is None or document["winner"]["trial"] != run.ours:
            return {}  # of an earlier winner
        items = [_item(item) for item in document["items"]]
        return {
            "winner": str(document["winner"]["name"]),
            "rival": str(document["rival"]["name"]),
            "counts": {key: f"{int(document[key]):,}" for key in ("wins", "losses", "ties")},
            "groups": [
                {"fate": fate, "rows": [item for item in items if item["fate"] == fate]}
                for fate in ("won", "lost")
            ],
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # none were written, or somebody else wrote them


def _item(item: dict[str, Any]) -> dict[str, Any]:
    prompt = str(item["prompt"])
    left_out = len(prompt) - _PROMPT
    return {
        "fate": str(item["fate"]),
        "where": f"{item['task']}, document {item['document']}",
        "prompt": ("… " if left_out > 0 else "") + prompt[-_PROMPT:],
        "right": _cut(item["right"]),
        "winner": _cut(item["winner"]),
        "rival": _cut(item["rival"]),
        "winner_score": number(item["winner_score"]),
        "rival_score": number(item["rival_score"]),
    }


def _cut(text: Any) -> str:
    whole = str(text).strip("\n")
    return whole if len(whole) <= _ANSWER else whole[: _ANSWER - 1] + "…"
