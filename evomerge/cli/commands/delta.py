"""`evomerge extract-delta` and `evomerge apply-delta`: a fine-tune stored by its base, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError

_LAM = 0.4  # of tall_mask too


def add(commands: Any) -> None:
    """Add both commands to the parser's."""
    extract = commands.add_parser("extract-delta", help="what differs from the base, bit for bit")
    extract.add_argument("models", nargs="+", metavar="MODEL")
    extract.add_argument("base", metavar="BASE")
    extract.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    extract.add_argument(
        "--tall",
        action="store_true",
        help="several models as one sum and a bit an element each (TALL masks); not exact",
    )
    extract.add_argument(
        "--lam", type=float, help=f"with --tall: more keeps less of each model (default {_LAM})"
    )
    extract.add_argument(
        "--density",
        type=float,
        metavar="SHARE",
        help="store the largest changes of each tensor alone; not exact, the error is printed",
    )
    extract.add_argument(
        "--rank",
        type=int,
        help="store each matrix's change as two factors, where they are smaller; not exact",
    )
    extract.set_defaults(run=run_extract)

    restore = commands.add_parser("apply-delta", help="the model that such a delta was made of")
    restore.add_argument("delta", type=Path, metavar="DELTA")
    restore.add_argument("base", metavar="BASE")
    restore.add_argument("out", type=Path, metavar="OUT", help="the model folder to make")
    restore.add_argument("--model", metavar="NAME", help="which of several models")
    restore.set_defaults(run=run_apply)


def run_extract(arguments: argparse.Namespace) -> None:
    """Write the delta and print its size."""
    from evomerge.merge.output.delta_folder import extract_delta, tall_compress

    models, base, out = arguments.models, arguments.base, arguments.out
    close = {"density": arguments.density, "rank": arguments.rank}
    if arguments.tall:
        if any(value is not None for value in close.values()):
            raise UserError("extract-delta: --tall goes with neither --density nor --rank")
        size = tall_compress(models, base, out, _LAM if arguments.lam is None else arguments.lam)
    elif len(models) > 1:
        raise UserError(f"extract-delta: {len(models)} models in one delta need --tall")
    elif arguments.lam is not None:
        raise UserError("extract-delta: --lam: only --tall takes it")
    else:
        size = extract_delta(models[0], base, out, **close)
    counts = ", ".join(f"{count} {how}" for how, count in size.counts.items())
    print(f"tensors: {counts}")
    print(f"{size.stored:,} bytes of {size.models:,} ({100 * size.stored / size.models:.1f} %)")
    if any(value is not None for value in close.values()):
        print(f"{100 * size.error:.3g} % of the change is missed (Frobenius norm)")
    print(f"wrote {out}")


def run_apply(arguments: argparse.Namespace) -> None:
    """Write the model."""
    from evomerge.merge.output.delta_folder import apply_delta

    count = apply_delta(arguments.delta, arguments.base, arguments.out, arguments.model)
    print(f"{count} tensors")
    print(f"wrote {arguments.out}")
