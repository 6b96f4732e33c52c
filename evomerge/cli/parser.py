"""Declares the arguments of `evomerge`: every command, on one screen of help."""

from __future__ import annotations

import argparse

from evomerge import __version__
from evomerge.cli.commands import (
    build,
    catalogue,
    check,
    completion,
    delta,
    demo,
    dequantize,
    extract_lora,
    mergekit,
    push,
    search,
    trajectory,
)
from evomerge.cli.commands.runs import dashboard, explain, repair, report, status, watch

_COMMANDS = (  # in the order of the help: run a study, look at it, use its recipe, the rest
    *(demo, search, check),
    *(status, watch, dashboard, report, explain, repair),
    *(build, push, mergekit, trajectory, extract_lora, delta, dequantize),
    *(catalogue, completion),
)

_EPILOG = """\
Start with `evomerge demo`. The same search command again resumes a search.
`evomerge COMMAND --help` shows a command's options.
"""


class _OneScreen(argparse.RawDescriptionHelpFormatter):
    """Print one line for each command, without the line that only says COMMAND."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        self._action_max_length += 4  # argparse forgets that commands are indented
        return super()._format_action(action).partition("\n")[2]


def make_parser() -> argparse.ArgumentParser:
    """Make the parser; its arguments have `run`, a function of them, and perhaps `resumes`."""
    parser = argparse.ArgumentParser(
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
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", prog="evomerge", required=True
    )
    for command in _COMMANDS:
        command.add(commands)
    parser.set_defaults(parser=parser)  # for `completion`
    return parser
