"""Reads and writes YAML, safely and strict about keys; nothing else imports PyYAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.core.errors import UserError, unknown

_MAX_BYTES = 2**20
_MAX_PARTS = 20_000  # keys, items, lines: PyYAML takes some 50 microseconds for each
_MAX_DEPTH = 100


def read(file: Path) -> Any:
    """Read one YAML document from a file of at most 1 MiB.

    Raises:
        UserError: The file is missing, too large, not YAML, repeats a key, or uses aliases.
    """
    return parse(_text(file), where=str(file))


def read_all(file: Path) -> list[Any]:
    """Read every YAML document of a file of at most 1 MiB; an empty file holds one, ``None``.

    Raises:
        UserError: As for `read`.
    """
    return parse_all(_text(file), where=str(file)) or [None]


def _text(file: Path) -> str:
    if file.is_dir():
        raise UserError(f"{file}: expected a file, but it is a folder")
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.stat().st_size > _MAX_BYTES:
        raise UserError(
            f"{file}: expected at most 1 MiB of YAML but it has {file.stat().st_size} bytes"
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: expected UTF-8 text: {error.reason} at byte {error.start}"
        ) from None


def parse(text: str, where: str) -> Any:
    """Parse one YAML document.

    Raises:
        UserError: It is not YAML, repeats a key, or uses aliases; names `where` and the line.
    """
    return _loaded(text, where, lambda loader: loader.get_single_data())


def parse_all(text: str, where: str) -> list[Any]:
    """Parse every document of a text.

    Raises:
        UserError: As for `parse`.
    """

    def all_data(loader: _Strict) -> list[Any]:
        documents = []
        while loader.check_data():  # type: ignore[no-untyped-call]
            documents.append(loader.get_data())
        return documents

    parsed: list[Any] = _loaded(text, where, all_data)
    return parsed


def _loaded(text: str, where: str, take: Callable[[_Strict], Any]) -> Any:
    _check_size(text, where)
    try:
        loader = _Strict(text)
        try:
            return take(loader)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{where}:{line} not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from None
    except ValueError as error:  # 2024-99-99, or a number of 5000 digits
        raise UserError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


def _check_size(text: str, where: str) -> None:
    """Refuse what PyYAML would take long to refuse."""
    if sum(map(text.count, ":,[{\n")) > _MAX_PARTS:
        raise UserError(f"{where}: expected at most {_MAX_PARTS:,} keys, items and lines")
    depth = 0
    for character in re.findall(r"[\[\]{}]", text):
        depth += 1 if character in "[{" else -1
        if depth > _MAX_DEPTH:
            raise UserError(f"{where}: not valid YAML: nested too deeply")


def write(document: Any) -> str:
    """Write a document in block style, lists of numbers on one line, keys in their own order."""
    return yaml.dump(
        document,
        Dumper=_Plain,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=100,
    )


def mapping(document: Any, where: str) -> dict[str, Any]:
    """Return the document as a mapping with text keys.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(document, Mapping) or not all(isinstance(key, str) for key in document):
        raise UserError(
            f"{where}: expected a mapping of names to values, but got {_brief(document)}"
        )
    return dict(document)


def present(document: Any, where: str) -> dict[str, Any]:
    """Return the document as a mapping without nulls, which mergekit reads as absent.

    Raises:
        UserError: It is something else.
    """
    return {key: value for key, value in mapping(document, where).items() if value is not None}


def check_keys(document: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse unknown keys.

    Raises:
        UserError: Names the first unknown key and the nearest known one.
    """
    names = list(known)
    for key in document:
        if key not in names:
            raise UserError(f"{where}: {unknown('key', key, names)}")


def _brief(document: Any) -> str:
    text = repr(document)
    return text if len(text) <= 60 else text[:57] + "..."


class _Strict(yaml.SafeLoader):
    """A safe loader that refuses aliases (they explode) and repeated keys (one would be lost)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key}' appears twice", problem_mark=key_node.start_mark
                )
            seen.add(key if isinstance(key, str) else repr(key))
        return super().construct_mapping(node, deep=deep)


class _Plain(yaml.SafeDumper):
    """A dumper that never writes aliases and keeps short lists of scalars on one line."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        del flow_style  # decided by what the list holds
        plain = all(isinstance(item, int | float | str | bool) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)


# 1e-3 is a number to every reader of YAML 1.2 and of mergekit's files, but text to PyYAML.
_FLOAT = r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"""


def _teach_floats() -> None:
    for side in (_Strict, _Plain):  # the writer too: it must quote a text that reads as a number
        side.add_implicit_resolver(
            "tag:yaml.org,2002:float", re.compile(_FLOAT, re.X), list("-+0123456789.")
        )


_teach_floats()
