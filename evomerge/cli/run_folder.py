"""Reads a run folder or a recipe that a command names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.core.errors import UserError

if TYPE_CHECKING:
    import argparse

    from evomerge.recipe.recipe import Recipe
    from evomerge.study.journal.record import Record


def journal_of(directory: Path) -> Path:
    """Return the journal of a run folder.

    Raises:
        UserError: The folder is not a run folder.
    """
    from evomerge.study.journal.journal import JOURNAL

    if not (directory / JOURNAL).is_file():
        inner = directory / "run"  # as `evomerge demo` makes them
        hint = f"; {inner} is one" if (inner / JOURNAL).is_file() else ""
        raise UserError(f"{directory}: expected a run folder, but it has no {JOURNAL}{hint}")
    return directory / JOURNAL


def record_of(directory: Path) -> Record:
    """Replay a run's journal, also while the run goes on.

    Raises:
        UserError: The folder is not a run folder.
    """
    from evomerge.study.journal.record import Record

    return Record.read(journal_of(directory).parent)


def recipe_of(source: Path, trial: int | None, own_methods: Sequence[str] = ()) -> Recipe:
    """Read a recipe from its file, or from a run folder: the recommended one, or a trial's.

    Args:
        source: The file or folder.
        trial: Which one of a run.
        own_methods: Methods that it may name, ``FILE.py:NAME`` each; the files are run.

    Raises:
        UserError: There is no such recipe, file or trial.
    """
    from evomerge.recipe.recipe import Recipe

    load_own_methods(own_methods)
    if not source.is_dir():
        if trial is not None:
            raise UserError(f"--trial {trial}: expected a run folder, but {source} is none")
        return Recipe.from_yaml(source)
    record = record_of(source)
    if trial is None:
        if record.winner is None:
            raise UserError(f"{source}: this run has no verdict yet; choose by --trial NUMBER")
        trial = record.winner.number
    if trial not in record.trials:
        last = record.next_number - 1
        raise UserError(f"{source}: there is no trial {trial}; the last one is {last}")
    document = record.trials[trial].recipe
    check_own_methods(source, record, document)
    return Recipe.from_dict(document)


def load_own_methods(entries: Sequence[str]) -> None:
    """Register methods of files, ``FILE.py:NAME`` each; the files are run."""
    if entries:
        from evomerge.study.extensions import load_methods

        load_methods(entries)


def check_own_methods(source: Path, record: Record, recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe whose method is one of the study's own and was not loaded.

    Raises:
        UserError: Says with which option it is.
    """
    from evomerge import methods

    parts = [recipe, *(recipe.get("blocks") or ())]
    used = {part.get("merge_method") for part in parts} - set(methods.names())
    for entry in record.config.get("methods") or ():
        file, _, name = entry.rpartition(":")
        if name.rstrip("_") in used:
            raise UserError(
                f"{source}: its recipe takes {name}, a method of {file}: read that file, then add "
                f"--method {entry}, which runs it"
            )


def add_recipe(command: argparse.ArgumentParser) -> None:
    """Add the arguments that `recipe_of` takes."""
    from evomerge.cli.arguments import trial_number

    command.add_argument(
        "recipe", type=Path, metavar="RECIPE", help="a recipe file, or a run: its recommended one"
    )
    command.add_argument(
        "--trial", type=trial_number, metavar="N", help="of a run, this trial's recipe"
    )
    add_own_methods(command)


def add_own_methods(command: argparse.ArgumentParser) -> None:
    """Add --method, a method of one's own that a recipe may name."""
    command.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="FILE.py:NAME",
        help="a merge method of your own that the recipe names; runs the file",
    )
