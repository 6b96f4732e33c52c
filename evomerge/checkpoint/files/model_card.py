"""Reads what a model's card (README.md) says in its front matter."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files.document import read_text
from evomerge.core import yaml_file
from evomerge.core.errors import UserError

_MAX_CARD_BYTES = 2**20


def front_matter(folder: Path) -> dict[str, Any]:
    """Return the YAML on top of a folder's README.md; empty where it cannot be read or has none."""
    with contextlib.suppress(UserError, OSError):
        card = folder / "README.md"
        text = read_text(card, _MAX_CARD_BYTES)
        if text.startswith("---\n") and "\n---" in text[4:]:
            about = yaml_file.parse(text[4:].partition("\n---")[0], str(card))
            return about if isinstance(about, dict) else {}
    return {}
