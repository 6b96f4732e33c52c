"""`evomerge completion SHELL`: print a script that completes commands, options and files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_FOLDERS = {"RUN", "DIR", "OUT"}  # arguments with these names are folders; other paths are files


def _methods() -> list[str]:
    from evomerge import methods

    return [spec.name for spec in methods.registered()]


def _optimizers() -> list[str]:
    from evomerge.optimizers import registry

    return registry.names()


def _spaces() -> list[str]:
    from evomerge.recipe.space.shipped import shipped

    return list(shipped())


# Arguments that take any text, and names of what comes with evomerge to complete them with.
_NAMES: dict[tuple[str, str], Callable[[], list[str]]] = {
    ("methods", "name"): _methods,
    ("optimizers", "name"): _optimizers,
    ("spaces", "name"): _spaces,
    ("demo", "optimizer"): _optimizers,
    ("demo", "space"): _spaces,
    ("log", "to"): lambda: ["tensorboard", "mlflow", "wandb"],
    ("search", "log_to"): lambda: ["tensorboard", "mlflow", "wandb"],
}


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("completion", help="a shell's completion script")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    print(completion_script(arguments.parser, arguments.shell))


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script of a parser, for bash, zsh or fish."""
    import shtab

    for command in [parser, *_commands(parser)]:
        for action in command._actions:
            names = _NAMES.get((command.prog.removeprefix("evomerge "), action.dest))
            if names is not None:
                action.choices = names()
            if action.type is not None and getattr(action.type, "__name__", "") == "Path":
                kind = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE
                action.complete = kind  # type: ignore[attr-defined]  # where shtab looks for it
    return str(shtab.complete(parser, shell=shell))


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in action.choices.values()
    ]
