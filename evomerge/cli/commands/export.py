"""`evomerge export`: print a recipe as a mergekit configuration."""

from __future__ import annotations

import argparse
from typing import Any

from evomerge.cli.run_folder import add_recipe, recipe_of


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("export", help="print a recipe as a mergekit configuration")
    add_recipe(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the configuration; mergekit needs the tensors' names for some of its filters."""
    from evomerge.merge.parents.nested import open_parents, with_merges
    from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit

    recipe = recipe_of(arguments.recipe, arguments.trial)
    parents = with_merges(recipe, open_parents(recipe.model_names))
    names = list(parents.checkpoints[recipe.donor].tensors)
    print(as_yaml(to_mergekit(recipe, names)), end="")
