"""Reads folders of lm-eval task files without running them, to name those with code or mistakes.

A task file may name Python (`!function`, a task class) that lm-eval imports when the task is
loaded. This module reads the YAML nodes with lm-eval's own parser and follows every `include` that
stands anywhere in a file, whichever of several lm-eval would take.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from evomerge.core.errors import UserError

MAX_BYTES = 1_000_000  # a task file is prose and a few keys; more is a mistake or an attack
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # what lm-eval's loader derives from
# hf_evaluate downloads a metric's program; unsafe_code runs the model's answers.
_CODE_KEYS = ("class", "hf_evaluate", "unsafe_code")


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
            except (yaml.YAMLError, UserError) as error:
                broken[path] = " ".join(str(error).split())[:200]
    return broken


def code_in(path: Path) -> str | None:
    """Return what would run code in a task file or the files it includes; ``None`` if nothing.

    Raises:
        UserError: A file cannot be read to the end, so that nobody can say what it would run.
    """
    for file, nodes in _with_includes(path):
        for node, key in nodes:
            code = _code(node, key)
            if code is not None:
                return f"{code} in {file}"
    return None


def code_files(folders: Iterable[Path], task_files: Iterable[Path] = ()) -> dict[str, str]:
    """Hash every Python file that may run if task code is allowed (SHA-256).

    Args:
        folders: Every Python file in them counts.
        task_files: Python files beside these, and beside each file that they include, count too,
            and so do the modules that they name.
    """
    python = {path for folder in folders for path in folder.rglob("*.py")}
    for task_file in task_files:
        for file, nodes in _with_includes(task_file):
            python |= set(file.parent.glob("*.py"))
            names = [node.value for node, _ in nodes if node.tag == "!function"]
            python |= {origin for name in names if (origin := _origin(str(name), file.parent))}
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(python)
        if path.is_file()
    }


def _origin(qualified_name: str, folder: Path) -> Path | None:
    """Return the file of a module that is named by `!function`, as lm-eval looks it up."""
    module = qualified_name.rpartition(".")[0]
    beside = folder / f"{module.replace('.', '/')}.py"
    if beside.is_file():
        return beside
    try:
        spec = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        return None  # lm-eval says so when it imports it
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


Nodes = list[tuple[yaml.Node, str]]  # each with the key that it stands under; "" for keys and items


def _with_includes(path: Path) -> Iterator[tuple[Path, Nodes]]:
    """Yield a task file and every file that it may include, each with all of its nodes."""
    waiting, visited = [path.resolve()], set()
    while waiting:
        file = waiting.pop()
        if file in visited or not file.exists():
            continue  # lm-eval itself reports cycles and missing includes
        visited.add(file)
        try:
            root = _compose(file)
        except yaml.YAMLError as error:
            problem = " ".join(str(error).split())[:200]
            raise UserError(f"{file}: expected YAML of a task, but {problem}") from None
        nodes = [] if root is None else _nodes(root)
        yield file, nodes
        for node, key in nodes:
            if key == "include":
                texts = node.value if isinstance(node, yaml.SequenceNode) else [node]
                waiting += [(file.parent / str(text.value)).resolve() for text in texts]


def _compose(path: Path) -> yaml.Node | None:
    if not path.is_file():
        raise UserError(f"expected a task file, but {path} is none")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"expected a task file of at most {MAX_BYTES} bytes: {path} has {size}")
    with path.open("rb") as file:
        return yaml.compose(file.read(MAX_BYTES + 1), Loader=_Loader)


def _nodes(root: yaml.Node) -> Nodes:
    """Every node of a file, also of keys that stand twice, of merge keys and behind aliases."""
    nodes: Nodes = []
    stack: Nodes = [(root, "")]
    visited = set()
    while stack:
        node, key = stack.pop()
        if (id(node), key) in visited:  # an alias: the same node again
            continue
        visited.add((id(node), key))
        nodes.append((node, key))
        if isinstance(node, yaml.SequenceNode):
            stack.extend((item, "") for item in node.value)
        elif isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                stack.extend(((name, ""), (value, str(name.value))))
    return nodes


def _code(node: yaml.Node, key: str) -> str | None:
    """Return how a node would run code, or ``None``."""
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        return f"'{node.tag} {node.value if isinstance(node, yaml.ScalarNode) else ''}'"
    if key in _CODE_KEYS and not _is_false(node):
        return f"'{key}: {node.value}'"
    return None


def _is_false(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value.lower() in ("false", "null", "~", "")
