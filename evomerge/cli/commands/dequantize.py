"""`evomerge dequantize`: a model in FP8 or int8 as one in float, which can be merged."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("dequantize", help="a model in FP8 or int8 written in float")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT", help="the model folder to make")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the model."""
    from evomerge.merge.output.dequantize import dequantize

    count = dequantize(arguments.model, arguments.out, arguments.dtype)
    print(f"{count} quantized tensors read by their scales")
    print(f"wrote {arguments.out}")
