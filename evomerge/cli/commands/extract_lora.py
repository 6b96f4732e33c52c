"""`evomerge extract-lora`: write a fine-tune as a LoRA adapter of its base, with its error."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.display.lines import show

_COMPONENTS = ("norm", "embedding", "head")
_SHOWN = 5


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("extract-lora", help="a fine-tune as a LoRA adapter of its base")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("out", type=Path, metavar="OUT", help="the PEFT folder to make")
    parser.add_argument("--rank", type=int, required=True, metavar="R", help="of each delta, >= 1")
    parser.add_argument(
        "--save-whole",
        nargs="+",
        default=[],
        choices=_COMPONENTS,
        help="what goes to modules_to_save; without it, only linear layers are kept",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the adapter and print the largest relative errors."""
    from evomerge.merge.output.extract_lora import extract_lora
    from evomerge.merge.output.peft_folder import total_error

    report = extract_lora(
        arguments.model, arguments.base, arguments.out, arguments.rank, arguments.save_whole
    )
    factored = [entry for entry in report if entry.saved_as == "rank"]
    for entry in sorted(factored, key=lambda entry: -entry.error)[:_SHOWN]:
        show(f"{entry.error:8.4f}  {entry.name} (rank {entry.rank})")
    if len(factored) > _SHOWN:
        show(f"          and {len(factored) - _SHOWN} with less; all in extraction.json")
    for fate, words in (("whole", "saved whole"), ("left out", "left out")):
        names = [entry.name for entry in report if entry.saved_as == fate]
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            show(f"{words}: {', '.join(names[:_SHOWN])}{more}")
    show(f"relative error {total_error(report):.4f}, counting what was left out")
    print(f"wrote {arguments.out}")
