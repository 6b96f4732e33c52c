"""The arguments of `evomerge`: every command, on one screen of help."""

from __future__ import annotations

import argparse

from evomerge import __version__
from evomerge.cli.commands.extract import add_extract_lora
from evomerge.cli.commands.look_commands import add_look_commands
from evomerge.cli.commands.recipe_commands import add_lists, add_recipe_commands
from evomerge.cli.commands.run_commands import add_run_commands
from evomerge.cli.commands.trajectory import add_trajectory

_EPILOG = """\
Start with `evomerge demo`. The same search command again resumes a search.
`evomerge COMMAND --help` tells a command's options.
"""


class _OneScreen(argparse.RawDescriptionHelpFormatter):
    """One line for each command, and none that only says COMMAND."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        self._action_max_length += 4  # argparse forgets that commands are indented
        return super()._format_action(action).partition("\n")[2]


def make_parser() -> argparse.ArgumentParser:
    """The parser; what it parses has `run`, a function of it, and perhaps `resumes`."""
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

    add_run_commands(commands)
    add_look_commands(commands)
    add_recipe_commands(commands)
    add_trajectory(commands)
    add_extract_lora(commands)
    add_lists(commands)

    completion = commands.add_parser("completion", help="a shell's completion script")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=_completion)
    return parser


def _completion(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.completion import completion_script

    print(completion_script(make_parser(), arguments.shell))
