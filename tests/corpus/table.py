"""Writes the table of architectures into the documentation, from a run of every check.

Run it as ``PYTHONPATH=. python tests/corpus/table.py``; it takes some three minutes.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
COLUMNS = {
    "passthrough": "a parent passes through unchanged",
    "linear": "merge on disk",
    "search": "search",
    "adapter": "LoRA adapter",
    "extraction": "extract-lora",
}
_HEAD = """# Architectures

Each row is a model of two or three layers that transformers {version} makes of its own config
class. The table is written by `tests/corpus/table.py` from a run of every check, and the tests
compare it with theirs:

- **a parent passes through unchanged**: logits bit for bit, config and every file;
- **merge on disk**: every tensor of the live model is the parents' mean in float64;
- **search**: a candidate in place is, bit for bit, the one that is exported, and scores are those
  of stock lm-eval on each parent's folder and on the export; "–": no model for text tasks;
- **LoRA adapter**: an adapter of PEFT is merged as PEFT applies it;
- **extract-lora**: PEFT loads the extracted adapter, and both merge it alike.

A number stands for the line by which evomerge refuses. vLLM needs a GPU: not part of this run.

"""


def read_table() -> dict[str, dict[str, str | None]]:
    """Read the page: ``yes``, the refusing line, or ``None``, by architecture and check."""
    reasons: dict[str, str] = {}
    rows: dict[str, dict[str, str | None]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        number, _, text = line.partition(". ")
        if number.isdecimal():
            reasons[number] = text.strip("`")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if (
            line.startswith("| ")
            and len(cells) == len(COLUMNS) + 1
            and cells[1] in "yes–0123456789"
        ):
            rows[cells[0]] = dict(zip(COLUMNS, cells[1:], strict=True))
    return {
        name: {
            check: None if cell == "–" else reasons.get(cell or "", cell)
            for check, cell in cells.items()
        }
        for name, cells in rows.items()
    }


def write_table() -> None:
    """Run every check and write the page."""
    import transformers

    from tests.corpus.architectures import CORPUS
    from tests.corpus.checks import outcome_of
    from tests.corpus.zoo import make_zoo

    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    reasons: list[str] = []
    lines = [
        f"| architecture | {' | '.join(COLUMNS.values())} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for architecture in CORPUS:
        cells = []
        with tempfile.TemporaryDirectory() as folder:
            zoo = make_zoo(Path(folder, "zoo"), architecture)
            for check in COLUMNS:
                outcome = outcome_of(check, architecture, zoo, Path(folder, check))
                if outcome not in (None, "yes") and outcome not in reasons:
                    reasons.append(str(outcome))
                known = {None: "–", "yes": "yes"}
                cells.append(known.get(outcome) or str(reasons.index(str(outcome)) + 1))
        lines.append(f"| {architecture.name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    notes = "".join(f"{number}. `{reason}`\n" for number, reason in enumerate(reasons, 1))
    head = _HEAD.format(version=transformers.__version__)
    PAGE.write_text(head + "\n".join(lines) + "\n\n" + notes, encoding="utf-8")


if __name__ == "__main__":
    write_table()
