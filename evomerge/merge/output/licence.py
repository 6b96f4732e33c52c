"""Reads the licence of a model from its model card."""

from __future__ import annotations

import contextlib

from evomerge.checkpoint import names as model_name
from evomerge.checkpoint.files.folder import resolve
from evomerge.checkpoint.files.model_card import front_matter
from evomerge.core.errors import UserError

_LONGEST = 100  # letters; more is prose


def licence_of(model: str) -> str | None:
    """Return the ``license`` of a model's card, e.g. ``apache-2.0``; ``None`` where it has none.

    With adapters on the model, the licences of all parts that say one, e.g. ``mit and apache-2.0``.
    """
    parts = [_licence(part) for part in model_name.parts_of(model)]
    return " and ".join(dict.fromkeys(part for part in parts if part)) or None


def _licence(model: str) -> str | None:
    with contextlib.suppress(UserError):  # a model that is not there states none
        about = front_matter(resolve(model))
        licence = about.get("license_name") or about.get("license")
        is_name = isinstance(licence, str) and licence.isprintable() and len(licence) <= _LONGEST
        return licence if is_name else None
    return None
