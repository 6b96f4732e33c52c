"""Fills environment variables into plain data, and values that a command line sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.core import yaml_file
from evomerge.core.errors import UserError

VARIABLE = r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}"
_WHOLE = re.compile(VARIABLE)
_ANY = re.compile(r"\$\$\{|" + VARIABLE)
_INDEXED = re.compile(r"([\w-]+)((?:\[\d+\])*)")


def expanded(document: Any, environment: Mapping[str, str], where: str) -> Any:
    """Return the same data with every ``${NAME}`` and ``${NAME:-default}`` in a text filled in.

    A text that is one variable and nothing else is read as YAML reads it, so that a number stays
    one. ``$${`` is a plain ``${``.

    Args:
        document: Plain data, as YAML gives it.
        environment: The variables, as `os.environ`.
        where: How messages name the document.

    Raises:
        UserError: A variable is not set and has no default; names it and where it stands.

    >>> expanded({"trials": "${N}", "seed": "${SEED:-3}"}, {"N": "20"}, "study.yaml")
    {'trials': 20, 'seed': 3}
    """
    return _expanded(document, environment, where, "")


def _expanded(value: Any, environment: Mapping[str, str], where: str, path: str) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _expanded(item, environment, where, f"{path}.{key}".lstrip("."))
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expanded(item, environment, where, f"{path}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def filled(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        if name is None:
            return "${"
        if name not in environment and default is None:
            raise UserError(
                f"{where}: {path}: the environment has no variable {name}; set it, or write "
                f"${{{name}:-a default}}"
            )
        return str(environment.get(name, default))

    text = _ANY.sub(filled, value)
    return yaml_file.parse(text, f"{where}: {path}") if _WHOLE.fullmatch(value) else text


def with_settings(document: Any, settings: Iterable[str], option: str = "--set") -> Any:
    """Return the same data with values set by their paths, such as ``search.trials=100``.

    Sections that are not there are made; values are YAML, so ``evaluate.tasks=[a, b]`` is a list.

    Args:
        document: Plain data; it is not changed.
        settings: Paths with their values. A path's names are joined by dots; ``models[0]`` is the
            first entry of a list.
        option: How messages name the option.

    Raises:
        UserError: A setting has no ``=``, or its path leads through a value that has no such key.

    >>> with_settings({"search": {"trials": 240, "seed": 1}}, ["search.trials=100", "space=ties"])
    {'search': {'trials': 100, 'seed': 1}, 'space': 'ties'}
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = _keys(path.strip())
        if not equals or not keys:
            raise UserError(
                f"{option} {setting}: expected KEY=VALUE, such as search.trials=100, "
                f"but got {setting!r}"
            )
        value = yaml_file.parse(text, f"{option} {path}")
        document = _with(document, keys, value, f"{option} {path}")
    return document


def _keys(path: str) -> list[str | int]:
    keys: list[str | int] = []
    for part in path.split("."):
        match = _INDEXED.fullmatch(part)
        if match is None:
            return []
        keys += [match[1], *(int(i) for i in re.findall(r"\d+", match[2]))]
    return keys


def _with(document: Any, keys: list[str | int], value: Any, where: str) -> Any:
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(key, int):
        if not isinstance(document, list) or key >= len(document):
            length = len(document) if isinstance(document, list) else 0
            raise UserError(f"{where}: expected a list with an entry {key}, but it has {length}")
        changed = _with(document[key], rest, value, where)
        return [*document[:key], changed, *document[key + 1 :]]
    if document is None:
        document = {}
    if not isinstance(document, Mapping):
        raise UserError(f"{where}: expected a mapping with a key '{key}', but got {document!r}")
    return {**document, key: _with(document.get(key), rest, value, where)}
