"""Reads folders of lm-eval task files without running them, to name those with code or mistakes.

A task file may name Python (`!function`, a task class) that lm-eval imports when the task is
loaded. This module only looks at the YAML nodes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from evomerge.core.errors import UserError

MAX_BYTES = 1_000_000  # a task file is prose and a few keys; more is a mistake or an attack


def check_folders(include_path: Sequence[Path | str]) -> list[Path]:
    """Return the folders as absolute paths.

    Raises:
        UserError: One is missing or not a folder.
    """
    folders = []
    for entry in include_path:
        folder = Path(os.path.expanduser(entry))
        if not folder.is_dir():
            kind = "a file" if folder.exists() else "nothing there"
            raise UserError(
                f"expected `include_path` to name a folder of task files, but '{entry}' is {kind}"
            )
        folders.append(folder.resolve())
    return folders


def broken_files(folders: Iterable[Path]) -> dict[Path, str]:
    """Return the task files that are not valid YAML, each with the reason in one line."""
    broken = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.yaml")):
            try:
                _compose(path)
            except (yaml.YAMLError, UnicodeDecodeError, UserError) as error:
                broken[path] = " ".join(str(error).split())[:200]
    return broken


def code_in(path: Path, seen: frozenset[Path] = frozenset()) -> str | None:
    """Return what would run code in a task file or the files it includes; ``None`` if nothing.

    Args:
        path: The task file.
        seen: Files already visited on this chain of includes.
    """
    path = path.resolve()
    if path in seen or not path.is_file():
        return None  # lm-eval itself reports cycles and missing includes
    node = _compose(path)
    code = None if node is None else _code_node(node)
    if code is not None:
        return f"{code} in {path}"
    for included in _includes(node):
        code = code_in(path.parent / included, seen | {path})
        if code is not None:
            return code
    return None


def code_files(folders: Iterable[Path]) -> dict[str, str]:
    """Hash every Python file in these folders (SHA-256): they may run if task code is allowed."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if path.is_file()
    }


def _compose(path: Path) -> yaml.Node | None:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"expected a task file of at most {MAX_BYTES} bytes: {path} has {size}")
    return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)


def _code_node(root: yaml.Node) -> str | None:
    stack, visited = [root], set()
    while stack:
        node = stack.pop()
        if id(node) in visited:  # an alias: the same node again
            continue
        visited.add(id(node))
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            return f"'{node.tag} {node.value if isinstance(node, yaml.ScalarNode) else ''}'"
        if isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                # hf_evaluate downloads a metric's program; unsafe_code runs the model's answers.
                if key.value in ("class", "hf_evaluate", "unsafe_code") and not _is_false(value):
                    return f"'{key.value}: {value.value}'"
                stack.extend((key, value))
    return None


def _is_false(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value.lower() in ("false", "null", "~", "")


def _includes(root: yaml.Node | None) -> list[str]:
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if key.value == "include":
            nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
            return [str(node.value) for node in nodes]
    return []
