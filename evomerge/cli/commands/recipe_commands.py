"""`build`, `push`, `export`, `import`: what is made of one recipe; and `methods` and `spaces`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import number


def add_recipe_commands(commands: Any) -> None:
    """Add the commands that need no study."""
    build = commands.add_parser("build", help="merge one recipe into a model folder")
    _add_recipe(build)
    build.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    build.add_argument("--device", default="cpu", help="where the arithmetic runs (default cpu)")
    build.set_defaults(run=_build)

    push = commands.add_parser("push", help="upload a merged model to the Hugging Face Hub")
    push.add_argument("source", type=Path, metavar="RUN", help="a run folder, or a merged model's")
    push.add_argument("repository", metavar="REPO", help="such as organisation/name")
    push.add_argument("--public", action="store_true", help="a new repository is private otherwise")
    push.set_defaults(run=_push)

    export = commands.add_parser("export", help="print a recipe as a mergekit configuration")
    _add_recipe(export)
    export.set_defaults(run=_export)

    imported = commands.add_parser(
        "import", help="read a mergekit file, or a mergekit-evolve genome"
    )
    imported.add_argument("file", type=Path, metavar="FILE.yaml")
    imported.add_argument("out", nargs="?", type=Path, metavar="OUT", help="default: print it")
    imported.add_argument(
        "--include-path",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of task YAML for the study of a genome file",
    )
    imported.set_defaults(run=_import)


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe", type=Path, metavar="RECIPE", help="a recipe's file, or a run: its recommended one"
    )
    command.add_argument("--trial", type=number, metavar="N", help="of a run, this trial's")


def _build(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import build_recipe

    build_recipe(arguments.recipe, arguments.out, arguments.device, arguments.trial)


def _push(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.push import push

    print(push(arguments.source, arguments.repository, public=arguments.public))


def _export(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import export_recipe

    export_recipe(arguments.recipe, arguments.trial)


def _import(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.migrate import import_file

    import_file(arguments.file, arguments.out, arguments.include_path)


def add_lists(commands: Any) -> None:
    """Add the commands that list what there is."""
    methods = commands.add_parser("methods", help="merge methods: parameters, ranges, papers")
    methods.add_argument("name", nargs="?", metavar="NAME")
    methods.add_argument("--json", action="store_true", help="for scripts")
    methods.set_defaults(run=_methods)

    spaces = commands.add_parser("spaces", help="the search spaces that come with evomerge")
    spaces.add_argument("name", nargs="?", metavar="NAME")
    spaces.set_defaults(run=_spaces)


def _methods(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import show_methods

    show_methods(arguments.name, arguments.json)


def _spaces(arguments: argparse.Namespace) -> None:
    from evomerge.cli.commands.show import show_spaces

    show_spaces(arguments.name)
