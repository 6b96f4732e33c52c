"""Every command, study file and program in the documentation runs as it stands there."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evomerge.cli import main
from evomerge.cli.parser import make_parser
from evomerge.core import yaml_file
from evomerge.study.config import StudyConfig

DOCS = Path(__file__).parents[2] / "docs"
_BY_HAND = {"files.md", "interfaces.md"}  # of the reference; docs/generate.py writes the others
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if page.name != "reading-list.md" and (page.parent.name != "reference" or page.name in _BY_HAND)
)
_BLOCK = re.compile(r"(?:<!-- (?P<note>[^>]*?) -->\n)? *```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block, and what the comment before it says."""

    kind: str
    text: str
    note: str


def blocks(page: Path, *kinds: str) -> list[Block]:
    blocks = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    all_ = [Block(m["kind"], m["text"], m["note"] or "") for m in blocks]
    return [block for block in all_ if block.kind in kinds]


def commands(block: Block) -> Iterator[list[str]]:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "evomerge", f"only evomerge's commands are shown: {line}"
            yield words[1:]


def run(words: list[str]) -> tuple[int, str]:
    """A command in this process; `> FILE` takes its output."""
    target = None
    if ">" in words:
        target, words = Path(words[-1]), words[: words.index(">")]
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    signal.signal(signal.SIGTERM, handler)
    if target is not None:
        target.write_text(out.getvalue())
    return code, err.getvalue()


def run_page(page: Path, slow: bool) -> int:
    count = 0
    for block in blocks(page, "bash", "python", "yaml", "text"):
        note = block.note
        if block.kind in ("yaml", "text"):  # `# name.yaml` on the first line names a file
            named = re.match(r"# (\S+\.ya?ml)$", block.text.partition("\n")[0])
            if named and not Path(named[1]).exists() and Path(named[1]).parent.exists():
                Path(named[1]).write_text(block.text)
            continue
        if note.startswith("not run here") or ("slow" in note) != slow:
            continue
        if block.kind == "python":
            exec(compile(block.text, str(page), "exec"), {"__name__": "documentation"})
            count += 1
            continue
        for words in commands(block):
            code, err = run(words)
            if note.startswith("fails with: "):
                assert code == 2
                assert note.removeprefix("fails with: ") in err
            else:
                assert code == 0, f"evomerge {shlex.join(words)}: {err}"
            count += 1
    return count


QUICK = [
    "index",
    "quick-start",
    "mergekit",
]  # the other pages' are run at night


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem in QUICK], ids=lambda p: p.stem)
@pytest.mark.usefixtures("at_home")
def test_the_commands_of_a_page_run(page: Path) -> None:
    assert run_page(page, slow=False) >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.stem not in QUICK and blocks(p, "bash", "python")], ids=str
)
@pytest.mark.usefixtures("at_home")
def test_the_commands_of_the_other_pages_run(page: Path) -> None:
    assert run_page(page, slow=False) >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any("slow" in b.note for b in blocks(p, "bash", "python"))],
    ids=lambda p: p.stem,
)
def test_the_slow_commands_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(page, slow=True) >= 1


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_yaml_block_is_read_strictly(page: Path, reader: Path) -> None:
    for block in blocks(page, "yaml"):
        document: Any = yaml_file.parse(block.text, str(page))
        assert isinstance(document, dict)
        base = StudyConfig.from_yaml(reader / "study.yaml").to_dict()
        if "task" in document:
            continue
        if "merge_method" in document:
            document = {"space": document}
        StudyConfig.from_dict({**base, **document}, reader, str(page))


def test_every_command_in_the_readme_is_one_with_such_arguments() -> None:
    readme = DOCS.parent / "README.md"
    shown = [b for b in blocks(readme, "bash") if b.text.startswith("evomerge")]
    documented = [words for block in shown for words in commands(block)]
    assert len(documented) >= 4
    for words in documented:
        assert callable(make_parser().parse_args(words).run)


def test_every_comment_before_a_block_is_one_that_is_understood() -> None:
    for page in PAGES:
        for block in blocks(page, "bash", "python"):
            assert re.match(r"^$|slow$|not run here: \w|fails with: \w", block.note), block.note


def test_the_comparison_of_methods_has_a_row_for_each_and_knows_what_mergekit_has() -> None:
    from evomerge.methods import registered

    rows = {}
    for line in (DOCS / "methods.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if line.startswith("| `"):
            rows |= dict.fromkeys(re.findall(r"`(\w+)`", cells[1]), cells[2])
    assert {name: effect != "–" for name, effect in rows.items()} == {
        method.name: method.in_mergekit for method in registered()
    }
