"""Reads the licence of a model from its model card."""

from __future__ import annotations

import contextlib

from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.files.document import read_text
from evomerge.checkpoint.files.folder import resolve
from evomerge.core import yaml_file
from evomerge.core.errors import UserError

_MAX_CARD_BYTES = 2**20
_LONGEST = 100  # letters; more is prose


def licence_of(model: str) -> str | None:
    """Return the ``license`` of a model's card, e.g. ``apache-2.0``; ``None`` where it has none.

    With adapters on the model, the licences of all parts that say one, e.g. ``mit and apache-2.0``.
    """
    parts = [_licence(part) for part in model_name.parts_of(model)]
    return " and ".join(dict.fromkeys(part for part in parts if part)) or None


def _licence(model: str) -> str | None:
    with contextlib.suppress(UserError, OSError):  # a card that cannot be read states none
        card = resolve(model) / "README.md"
        return _in_front_matter(read_text(card, _MAX_CARD_BYTES), str(card))
    return None


def _in_front_matter(text: str, where: str) -> str | None:
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return None
    about = yaml_file.parse(text[4:].partition("\n---")[0], where)
    licence = about.get("license_name") or about.get("license") if isinstance(about, dict) else None
    is_name = isinstance(licence, str) and licence.isprintable() and len(licence) <= _LONGEST
    return licence if is_name else None
