"""Finds the search spaces that come with evomerge by their names."""

from __future__ import annotations

from pathlib import Path

from evomerge.core.errors import UserError, unknown


def find(name: str | Path) -> Path:
    """Return the file of a space: a path, or a name in search_spaces/.

    Raises:
        UserError: There is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    raise UserError(f"{name}: no such file, and {unknown('space', str(name), known)}")


def shipped() -> dict[str, Path]:
    """Return the spaces that come with evomerge, by name."""
    here = Path(__file__).parents[2]
    folders = (here / "search_spaces", here.parent / "search_spaces")  # in a wheel, in a clone
    folder = next((f for f in folders if f.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}
