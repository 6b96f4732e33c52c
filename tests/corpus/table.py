"""Writes the table of architectures into the documentation, from a run of every check.

Run it as ``PYTHONPATH=. python tests/corpus/table.py``; it takes some three minutes. With names of
architectures it runs those alone, and keeps the other rows. README's table is the same in groups;
``… table.py readme`` writes it alone, from the page.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "architectures.md", ROOT / "README.md"
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


GROUPS = {  # as README has them: a group goes from its architecture to the next one's
    "Llama 2": "Llama 2 and 3, Mistral, Ministral, Qwen2, 2.5 and 3",
    "Gemma": "Gemma 1, 2, 3 and 3n (text)",
    "Phi-3": "Phi-3, SmolLM3, OLMo 2 and 3, Cohere 1 and 2, Granite, StarCoder 2, StableLM, GLM-4, "
    "EXAONE 4, Nemotron",
    "GPT-2": "GPT-2, GPT-NeoX, OPT, BLOOM, Falcon, MPT",
    "Mixtral": "mixtures: Mixtral, Qwen2 and Qwen3, OLMoE, DeepSeek-V3, gpt-oss, Granite",
    "Mamba 2": "Mamba 2",
    "T5": "T5, BERT, RoBERTa, ViT, Whisper",
    "Gemma 3, images": "with images: Gemma 3, Qwen2 and 2.5-VL, LLaVA, Mistral 3, SmolVLM",
}
_OF_README = {
    "merge": "linear",
    "search": "search",
    "export": "passthrough",
    "LoRA adapters": "adapter",
    "extract-lora": "extraction",
}
_MARKS = ("<!-- generated: python tests/corpus/table.py readme -->", "<!-- end of generated -->")


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


def write_table(names: Sequence[str] = ()) -> None:
    """Run every check and write the page; with names, run those architectures and keep the rest."""
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
    past = read_table() if names else {}
    if names and f"transformers {transformers.__version__} " not in PAGE.read_text("utf-8"):
        raise SystemExit(f"{PAGE}: it is of another transformers; run every architecture")
    for architecture in CORPUS:
        cells = []
        if names and architecture.name not in names:
            for outcome in past[architecture.name].values():
                cells.append(_cell(outcome, reasons))
            lines.append(f"| {architecture.name} | {' | '.join(cells)} |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            zoo = make_zoo(Path(folder, "zoo"), architecture)
            for check in COLUMNS:
                outcome = outcome_of(check, architecture, zoo, Path(folder, check))
                cells.append(_cell(outcome, reasons))
        lines.append(f"| {architecture.name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    notes = "".join(f"{number}. `{reason}`\n" for number, reason in enumerate(reasons, 1))
    head = _HEAD.format(version=transformers.__version__)
    PAGE.write_text(head + "\n".join(lines) + "\n\n" + notes, encoding="utf-8")


def _cell(outcome: str | None, reasons: list[str]) -> str:
    """Return a cell's text; a new line of refusal is added to the reasons, which are numbered."""
    if outcome in (None, "yes"):
        return outcome or "–"
    if outcome not in reasons:
        reasons.append(str(outcome))
    return str(reasons.index(str(outcome)) + 1)


def readme_table() -> str:
    """Return README's table: what holds for all of a group, or for how many of it."""
    groups: dict[str, list[dict[str, str | None]]] = {}
    for name, row in read_table().items():
        if name in GROUPS:
            rows = groups.setdefault(GROUPS[name], [])
        rows.append(row)
    lines = [f"| models | {' | '.join(_OF_README)} |", f"|---|{'---|' * len(_OF_README)}"]
    for group, rows in groups.items():
        cells = []
        for check in _OF_README.values():
            outcomes = [row[check] for row in rows]
            count = outcomes.count("yes")
            cell = "yes" if count == len(rows) else f"{count} of {len(rows)}"
            cells.append("–" if set(outcomes) == {None} else cell)
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def readme_block() -> str:
    """Return the block of README that is generated, marks and all."""
    return f"{_MARKS[0]}\n{readme_table()}\n{_MARKS[1]}"


def write_readme() -> None:
    """Put the table between README's marks."""
    before, _, rest = README.read_text(encoding="utf-8").partition(_MARKS[0])
    _, mark, after = rest.partition(_MARKS[1])
    if not mark:
        raise SystemExit(f"README.md: expected the lines {_MARKS[0]} and {_MARKS[1]}")
    README.write_text(before + readme_block() + after, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["readme"]:
        write_table(sys.argv[1:])
    write_readme()
