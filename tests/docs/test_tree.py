"""The tree that CONTRIBUTING and the design page draw is the tree of folders."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["CONTRIBUTING.md", "docs/design.md"]
_LINE = re.compile(r" {4}(?P<indent> *)(?P<folder>\w+)/ {2,}\S")


def drawn(page: str) -> list[str]:
    """The folders below evomerge/ that a page draws, as paths, in its order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    folders: list[str] = []
    room = ""
    for line in lines[lines.index("    evomerge/") + 1 :]:
        match = _LINE.match(line)
        if match is None or not match["indent"]:
            break
        if len(match["indent"]) == 2:
            room = match["folder"]
            folders.append(room)
        else:
            folders.append(f"{room}/{match['folder']}")
    return folders


@pytest.mark.parametrize("page", PAGES)
def test_every_folder_of_the_package_is_drawn_and_every_drawn_folder_is_there(page):
    package = ROOT / "evomerge"
    there = {
        str(file.parent.relative_to(package))
        for file in package.rglob("__init__.py")
        if file.parent != package
    }
    inner = {
        "cli/commands",
        "cli/commands/runs",
        "cli/display",
        "cli/init",
        "study/workers/answers",
    }  # in the line of their room
    assert sorted(drawn(page)) == sorted(there - inner)


def test_the_pages_draw_the_same_tree():
    assert drawn("CONTRIBUTING.md") == drawn("docs/design.md")


def test_the_rooms_stand_in_the_order_of_the_import_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    order = [
        name.strip().strip("()").removeprefix("evomerge.")
        for layer in layers
        for name in layer.split("|")
        if not name.strip().startswith("(")  # rooms that are planned
    ]
    assert [folder for folder in drawn("CONTRIBUTING.md") if "/" not in folder] == order


def test_no_module_lies_loose_at_the_root():
    loose = {file.name for file in (ROOT / "evomerge").glob("*.py")}
    assert loose == {"__init__.py", "__main__.py"}


def test_no_folder_has_more_than_eighteen_modules():
    counts = {
        str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) - 1
        for folder in (ROOT / "evomerge").rglob("*")
        if folder.is_dir() and folder.name not in ("methods", "__pycache__")
    }
    assert {folder: count for folder, count in counts.items() if count > 18} == {}
