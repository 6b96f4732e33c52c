"""Reads the licence of a model from its model card."""

from __future__ import annotations

import contextlib
from pathlib import Path

from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.files.folder import resolve
from evomerge.core import yaml_file
from evomerge.core.errors import UserError

_MAX_CARD_BYTES = 2**20


def licence_of(model: str) -> str | None:
    """Return the ``license`` of a model's card, e.g. ``apache-2.0``; ``None`` where it has none.

    With adapters on the model, the licences of all parts that say one, e.g. ``mit and apache-2.0``.
    """
    parts = [_licence(part) for part in model_name.parts_of(model)]
    return " and ".join(dict.fromkeys(part for part in parts if part)) or None


def _licence(model: str) -> str | None:
    with contextlib.suppress(UserError, OSError, UnicodeDecodeError):
        card = resolve(model) / "README.md"
        if card.stat().st_size <= _MAX_CARD_BYTES:
            return _in_front_matter(card)
    return None


def _in_front_matter(card: Path) -> str | None:
    text = card.read_text(encoding="utf-8")
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return None
    about = yaml_file.parse(text[4:].partition("\n---")[0], str(card))
    licence = about.get("license_name") or about.get("license") if isinstance(about, dict) else None
    return licence if isinstance(licence, str) else None
