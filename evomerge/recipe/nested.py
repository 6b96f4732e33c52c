"""Brings recipes inside recipes into one form: named under `merges`, referred to by name.

Four ways of writing come to the same: a recipe where a model would stand, a recipe's file where a
model would stand, several documents with a `name` (as for mergekit-multi), and `merges` itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from evomerge.checkpoint import names as model_name
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe import rows
from evomerge.recipe.data import MODEL_KEYS

_DEEPEST = 20


def is_file(name: str) -> bool:
    """Return whether a model's name is that of a recipe's file."""
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def read(file: Path, above: Sequence[Path] = ()) -> Any:
    """Return a recipe's file as one document: folders absolute, files of recipes in it read too.

    Raises:
        UserError: It cannot be read, or it is, in the end, made of itself.
    """
    whole = file.resolve()
    if whole in above:
        chain = " → ".join(path.name for path in [*above[above.index(whole) :], whole])
        raise UserError(f"{file}: {chain}: a merge cannot be made of itself")
    documents = [model_name.joined(one, str(file)) for one in yaml_file.read_all(file)]
    document = documents[0] if len(documents) == 1 else of_documents(documents, str(file))
    return _files_read(relocate(document, file.parent), [*above, whole])


def flattened(document: Any, where: str) -> Any:
    """Return the document with every recipe in it under its `merges`, those first that others need.

    Raises:
        UserError: A merge is made of itself, or is used by nothing.
    """
    if not isinstance(document, dict) or not (document.get("merges") or _inline(document)):
        return document
    merges: dict[str, Any] = {}
    result = _hoisted(document, merges, where, 0)
    needs = {
        name: sorted(model for model in _models_of(inner) if model in merges)
        for name, inner in merges.items()
    }
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        chain = " → ".join(reversed(error.args[1]))
        raise UserError(f"{where}: merges: {chain}: a merge cannot be made of itself") from None
    used = {m for inner in [result, *merges.values()] for m in _models_of(inner)}
    idle = [name for name in merges if name not in used]
    if idle:
        raise UserError(f"{where}: merges: {idle[0]} is used by nothing")
    return {"merges": {name: merges[name] for name in order}, **result}


def of_documents(documents: Sequence[Any], where: str) -> Any:
    """Join several documents: the one without a name, or the last, is made of the others.

    Raises:
        UserError: A name is used twice, or is missing.
    """
    plain = [yaml_file.mapping(document, where) for document in documents]
    nameless = [i for i, document in enumerate(plain) if "name" not in document]
    if len(nameless) > 1:
        raise UserError(f"{where}: expected a name in every document but one, and one a result")
    last = nameless[0] if nameless else len(plain) - 1
    merges: dict[str, Any] = {}
    for i, document in enumerate(plain):
        if i == last:
            continue
        name = str(document["name"])
        if name in merges:
            raise UserError(f"{where}: two documents have the name {name}")
        merges[name] = {key: value for key, value in document.items() if key != "name"}
    final = {key: value for key, value in plain[last].items() if key != "name"}
    merges_of_last = yaml_file.mapping(final.get("merges") or {}, f"{where}: merges")
    return {**final, "merges": {**merges_of_last, **merges}}


def relocate(document: Any, folder: Path) -> Any:
    """Make every model that is a folder relative to `folder` absolute, in a copy."""
    return _relocated(document, folder, frozenset())


def _relocated(document: Any, folder: Path, merges: frozenset[str]) -> Any:
    def moved(value: str) -> str:
        # "*1" stands for a model, "" for a mistake, and a merge's name for no folder
        word = not value or value.startswith("*") or value in merges
        return value if word else model_name.relocated(value, folder)

    def named(key: str, value: Any) -> bool:
        if key in ("tokenizer_source", "source") and value in ("base", "union"):
            return False
        return key in MODEL_KEYS and isinstance(value, str)

    if isinstance(document, list):
        return [_relocated(item, folder, merges) for item in document]
    if not isinstance(document, dict):
        return document
    if isinstance(document.get("merges"), dict):
        merges = merges | frozenset(document["merges"])
    return {
        key: moved(value)
        if named(key, value)
        else rows.relocated(value, folder)
        if key == "data"
        else [
            moved(item) if isinstance(item, str) else _relocated(item, folder, merges)
            for item in value
        ]
        if key == "models" and isinstance(value, list)
        else _relocated(value, folder, merges)
        for key, value in document.items()
    }


def _files_read(document: Any, above: Sequence[Path]) -> Any:
    """Return the document with the content of recipe files in their places."""
    if isinstance(document, list):
        return [_files_read(item, above) for item in document]
    if not isinstance(document, dict):
        return document

    def content(value: Any) -> Any:
        return read(Path(value), above) if isinstance(value, str) and is_file(value) else value

    result = {
        key: content(value)
        if key in ("model", "base_model")
        else [
            {"model": content(item)} if isinstance(item, str) and is_file(item) else item
            for item in value
        ]
        if key == "models" and isinstance(value, list)
        else value
        for key, value in document.items()
    }
    return {
        key: value
        if key in ("model", "base_model") and isinstance(value, dict)
        else _files_read(value, above)
        for key, value in result.items()
    }


def _hoisted(document: Mapping[str, Any], merges: dict[str, Any], where: str, depth: int) -> Any:
    """Return a recipe without recipes in it; they are put into `merges`."""
    if depth > _DEEPEST:
        raise UserError(f"{where}: recipes nested more than {_DEEPEST} deep")
    written = yaml_file.mapping(document.get("merges") or {}, f"{where}: merges")
    for name, inner in written.items():
        at = f"{where}: merges.{name}"
        if not name or "/" in name or name.startswith(("*", ".")):
            raise UserError(f"{at}: expected a name that is no path")
        content = _hoisted(yaml_file.mapping(inner, at), merges, at, depth + 1)
        if merges.setdefault(name, content) != content:
            raise UserError(f"{at}: two merges have this name")

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, list):
            return [walk(item, key) for item in value]
        if not isinstance(value, dict):
            return value
        if key in ("model", "base_model", "models") and "merge_method" in value:
            content = _hoisted(yaml_file.mapping(value, where), merges, where, depth + 1)
            name = f"merge-{hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"
            merges[name] = content
            return name
        return {name: walk(item, name) for name, item in value.items()}

    return {key: walk(value, key) for key, value in document.items() if key != "merges"}


def _inline(value: Any, key: str = "") -> bool:
    """Say whether a recipe stands where a model would."""
    if isinstance(value, list):
        return any(_inline(item, key) for item in value)
    if not isinstance(value, dict):
        return False
    if key in ("model", "base_model", "models") and "merge_method" in value:
        return True
    return any(_inline(item, name) for name, item in value.items())


def _models_of(value: Any, key: str = "") -> set[str]:
    """Return every name that stands for a model in a recipe without recipes in it."""
    if isinstance(value, dict):
        return {m for name, item in value.items() for m in _models_of(item, name)}
    if isinstance(value, list):
        return {m for item in value for m in _models_of(item, key)}
    return {value} if isinstance(value, str) and key in (*MODEL_KEYS, "models") else set()
