"""`evomerge import`: mergekit's files as ours, with what changes meaning as comments above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.core.partial import write_text


def import_file(file: Path, out: Path | None, include_path: Sequence[Path] = ()) -> None:
    """Write the recipe of a mergekit file, or the study of a mergekit-evolve genome file.

    Args:
        file: The file to read.
        out: Where to; ``None`` prints it.
        include_path: Folders of task YAML that a genome file's tasks are in.

    Raises:
        UserError: The file says what neither can be told, or `out` exists.
    """
    from evomerge.recipe.mergekit.from_evolve import from_genome, is_genome_file
    from evomerge.recipe.mergekit.from_mergekit import from_mergekit

    folder, where = file.absolute().parent, str(file)
    documents = yaml_file.read_all(file)
    if is_genome_file(documents[0]) and len(documents) == 1:
        from evomerge.study.config import StudyConfig

        study = from_genome(documents[0], folder, include_path, where)
        StudyConfig.from_dict(study.document, folder, where)  # what it would refuse is told now
        kind, text, notes = "study", yaml_file.write(study.document), study.notes
    elif include_path:
        raise UserError("--include-path: only a mergekit-evolve genome file has tasks")
    else:
        recipe = from_mergekit(documents, folder, where)
        kind, text, notes = "recipe", recipe.recipe.to_yaml(), recipe.notes
    text = "".join(f"# {note}\n" for note in notes) + text
    if out is None:
        print(text, end="")
        return
    if out.exists():
        raise UserError(f"{out}: already exists; name another place or remove it")
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    print("".join(f"note: {note}\n" for note in notes) + f"wrote {out}, a {kind}")
