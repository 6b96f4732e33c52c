"""Chooses the chat template of a merged model: a parent's, a well-known one, or the recipe's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.files.document import read_json, read_text
from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe

_NAMED = Path(__file__).with_name("chat_templates")
_FILE = "chat_template.jinja"


def chat_template(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> str | None:
    """Return the template that a recipe asks for; ``None``: the tokenizer keeps what it has.

    ``auto`` is the one that most models have; of equally many, that of the first.
    """
    wanted = recipe.chat_template
    if wanted is None or "{" in wanted:
        return wanted
    if wanted != "auto":
        return (_NAMED / f"{wanted}.jinja").read_text(encoding="utf-8")
    templates = [template_of(checkpoints[name].folder) for name in recipe.inputs]
    counted = Counter(template for template in templates if template)
    return counted.most_common(1)[0][0] if counted else None


def template_of(folder: Path) -> str | None:
    """Return the default chat template of a model folder, without white space around it."""
    if (folder / _FILE).is_file():
        return read_text(folder / _FILE).strip() or None
    template = _settings(folder).get("chat_template")
    if isinstance(template, list):  # several, by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = next((e.get("template") for e in entries if e.get("name") == "default"), None)
    return template.strip() or None if isinstance(template, str) else None


def write_chat_template(template: str, folder: Path) -> None:
    """Give a template to the tokenizer in a folder, in place of any that it has."""
    (folder / _FILE).write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)  # which processors would prefer
    settings = _settings(folder)
    if settings.pop("chat_template", None) is not None:
        (folder / "tokenizer_config.json").write_text(
            json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings = read_json(file) if file.is_file() else {}
    if not isinstance(settings, dict):
        raise UserError(f"{file}: expected a JSON object")
    return settings
