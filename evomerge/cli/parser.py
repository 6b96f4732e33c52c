"""Declares the arguments of `evomerge`: every command, on one screen of help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from evomerge import __version__
from evomerge.cli.commands import (
    build,
    catalogue,
    check,
    completion,
    delta,
    demo,
    dequantize,
    evaluate,
    extract_lora,
    init,
    mergekit,
    nearest,
    push,
    queue,
    search,
    trajectory,
)
from evomerge.cli.commands.runs import (
    compare,
    dashboard,
    explain,
    log,
    repair,
    report,
    status,
    watch,
)
from evomerge.cli.display.lines import show, wrapped

_GROUPS = {
    "search": (demo, init, check, search, queue),
    "look at a run": (status, watch, dashboard, report, compare, explain, log, repair),
    "use a recipe": (
        build,
        evaluate,
        push,
        mergekit,
        trajectory,
        nearest,
        extract_lora,
        delta,
        dequantize,
    ),
    "what there is": (catalogue, completion),
}

_FIRST = """\
usage: evomerge COMMAND ...

Find the best way to merge a base model and several fine-tunes of it.

  evomerge demo                       train a small zoo, search its best merge, judge it
  evomerge init MODELS                look at your models, write study.yaml
  evomerge check study.yaml           load everything, forecast time and power
  evomerge search study.yaml runs/1   search; the same command again resumes
  evomerge status runs/1              how far it is, and what it found

`evomerge --help` lists all commands, `evomerge COMMAND --help` a command's options.
"""
_EPILOG = "`evomerge COMMAND --help` shows a command's options."


class _OneScreen(argparse.HelpFormatter):
    """Print one line for each command, below the headings of `_GROUPS`."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        lines = {one.dest: one.help or "" for one in action._choices_actions}
        width = max(map(len, lines))
        text = []
        for heading, names in action.groups.items():  # type: ignore[attr-defined]
            text.append(f"  {heading}")
            for name in names:
                text += wrapped(f"    {name:<{width}}  {lines[name]}", self._width)
        return "\n".join(text) + "\n"


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and knows what a mistyped word may have meant."""

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; an option that the command does not have gets a suggestion."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            command = getattr(parsed, "command", self)
            word = next((word for word in rest if word.startswith("-")), rest[0])
            near = _near(word.partition("=")[0], command._option_string_actions)
            command.error(f"unrecognized arguments: {' '.join(rest)}{near}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong, and end with code 2."""
        self.print_usage(sys.stderr)
        show(f"{self.prog}: error: {message}", stream=sys.stderr)
        sys.exit(2)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            near = _near(str(value), action.choices) or "; `evomerge --help` lists all"
            raise argparse.ArgumentError(None, f"unknown command '{value}'{near}")
        super()._check_value(action, value)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; its arguments have `run`, a function of them, and perhaps `resumes`."""
    parser = _Parser(
        prog="evomerge",
        usage="evomerge [--help] [--version] COMMAND ...",
        description="Find the best way to merge a base model and several fine-tunes of it.",
        epilog=_EPILOG,
        formatter_class=_OneScreen,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    version = f"evomerge {__version__}"
    parser.add_argument("--version", action="version", version=version, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", prog="evomerge")
    groups: dict[str, list[str]] = {}
    for heading, modules in _GROUPS.items():
        before = list(commands.choices)
        for module in modules:
            module.add(commands)
        groups[heading] = [name for name in commands.choices if name not in before]
    commands.groups = groups  # type: ignore[attr-defined]
    for command in commands.choices.values():
        command.set_defaults(command=command)
    topic = commands.add_parser("help", help="the help of a command")  # not listed
    topic.add_argument("topic", nargs="?", metavar="COMMAND")
    topic.set_defaults(run=_help)
    parser.set_defaults(parser=parser, run=_show_first)
    return parser


def _show_first(_arguments: argparse.Namespace) -> None:
    """Print the few commands that a study takes."""
    show(_FIRST.rstrip())


def _help(arguments: argparse.Namespace) -> None:
    """Print the help of a command, or of all."""
    words = [] if arguments.topic is None else [arguments.topic]
    arguments.parser.parse_args([*words, "--help"])


def _near(word: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else ""
