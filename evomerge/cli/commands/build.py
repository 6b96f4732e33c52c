"""`evomerge build`: merge one recipe into a model folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from evomerge.cli.display.lines import show
from evomerge.cli.run_folder import add_recipe, recipe_of


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("build", help="merge one recipe into a model folder")
    add_recipe(parser)
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    parser.add_argument("--device", default="cpu", help="where the arithmetic runs (default cpu)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the model; the digest of its weights is the last line printed."""
    from evomerge.calibration.make import build

    recipe = recipe_of(arguments.recipe, arguments.trial, arguments.method)
    digest = build(recipe, arguments.out, device=arguments.device, note=_print_note)
    print(f"wrote {arguments.out}")
    print(digest)


def _print_note(text: str) -> None:
    show(f"note: {text}", stream=sys.stderr)
