"""`evomerge export` and `evomerge import`: write and read mergekit's files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.cli.display.lines import show
from evomerge.cli.run_folder import add_recipe, recipe_of
from evomerge.core.atomic import write_text
from evomerge.core.errors import UserError


def add(commands: Any) -> None:
    """Add both commands to the parser's."""
    export = commands.add_parser("export", help="print a recipe as a mergekit configuration")
    add_recipe(export)
    export.set_defaults(run=run_export)

    parser = commands.add_parser(
        "import", help="read a file of mergekit, mergekit-moe or mergekit-evolve"
    )
    parser.add_argument("file", type=Path, metavar="FILE.yaml")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="default: print it")
    parser.add_argument(
        "--include-path",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="a folder of task YAML for the study of a genome file",
    )
    parser.set_defaults(run=run_import)


def run_export(arguments: argparse.Namespace) -> None:
    """Print the configuration; mergekit needs the tensors' names for some of its filters."""
    from evomerge.merge.parents.nested import open_parents, with_merges
    from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit

    recipe = recipe_of(arguments.recipe, arguments.trial, arguments.method)
    parents = with_merges(recipe, open_parents(recipe.model_names))
    names = list(parents.checkpoints[recipe.donor].tensors)
    print(as_yaml(to_mergekit(recipe, names)), end="")


def run_import(arguments: argparse.Namespace) -> None:
    """Write the recipe of a mergekit or mergekit-moe file, or the study of a genome file.

    Comments on top list what changes meaning.

    Raises:
        UserError: The file has something that evomerge cannot express, or OUT exists.
    """
    from evomerge.core import yaml_file
    from evomerge.recipe.mergekit.from_evolve import from_genome, is_genome_file
    from evomerge.recipe.mergekit.from_mergekit import from_mergekit
    from evomerge.recipe.mergekit.from_moe import from_moe, is_mixture_file

    file, out = arguments.file, arguments.out
    folder, where = file.absolute().parent, str(file)
    documents = yaml_file.read_all(file)
    rows: Mapping[Path, str] = {}
    if is_genome_file(documents[0]) and len(documents) == 1:
        from evomerge.study.config import StudyConfig

        study = from_genome(documents[0], folder, arguments.include_path, where)
        StudyConfig.from_dict(study.document, folder, where)  # refused here rather than by `search`
        kind, text, notes = "study", yaml_file.write(study.document), study.notes
    elif arguments.include_path:
        raise UserError("--include-path: only a mergekit-evolve genome file has tasks")
    elif is_mixture_file(documents[0]) and len(documents) == 1:
        mixture = from_moe(documents[0], folder, Path(f"{out or file}.rows"), where)
        if mixture.rows and out is None:
            raise UserError(f"{file}: its prompts become files beside the recipe: name OUT")
        kind, text, notes = "recipe", mixture.recipe.to_yaml(), mixture.notes
        rows = mixture.rows
    else:
        recipe = from_mergekit(documents, folder, where)
        kind, text, notes = "recipe", recipe.recipe.to_yaml(), recipe.notes
    text = "".join(f"# {note}\n" for note in notes) + text
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise UserError(f"{out}: already exists; name another file or remove it")
    try:
        for path, content in rows.items():
            path.parent.mkdir(exist_ok=True)
            write_text(path, content)
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    show("".join(f"note: {note}\n" for note in notes) + f"wrote {out}, a {kind}")
