"""`evomerge nearest`: print a recipe of the models that are nearest to rows of a new domain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import count
from evomerge.core.errors import UserError

_BY = ("likelihood", "text", "fisher")


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("nearest", help="models nearest to some rows: print the recipe")
    parser.add_argument("rows", metavar="ROWS", help="JSON lines of the new domain")
    parser.add_argument("models", nargs="+", metavar="MODEL", help="with --base, adapters too")
    parser.add_argument(
        "--by",
        choices=_BY,
        default="likelihood",
        help="each model's likelihood of the rows; or likeness to what it was trained on (--data): "
        "of texts, or of squared gradients",
    )
    parser.add_argument("--base", metavar="MODEL", help="text, fisher: the model that reads")
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="FILE", help="text, fisher: rows of each MODEL"
    )
    parser.add_argument("--k", type=count, default=5, help="at most so many of them (default 5)")
    parser.add_argument("--draw", type=count, default=100, help="rows of each file (default 100)")
    parser.add_argument("--tokens", type=count, default=512, help="of a row (default 512)")
    parser.add_argument("--out-dtype", default="parents", help="of the result (default: as theirs)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: print it")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Look at each model once, and print the mean of the nearest with what each scored."""
    from evomerge.calibration import nearest
    from evomerge.merge.parents.nested import open_parents
    from evomerge.recipe.rows import Calibration

    by, base = arguments.by, arguments.base
    models = [_named(model, base) for model in arguments.models]
    if len(set(models)) < len(models):
        raise UserError("nearest: expected each model once")
    target, *trained_on = (_data(file) for file in (arguments.rows, *arguments.data))
    calibration = Calibration(rows=arguments.draw, tokens=max(2, arguments.tokens))
    if by == "likelihood":
        if trained_on:
            raise UserError("nearest: --data: --by likelihood looks at the models alone")
        scores = nearest.by_likelihood(models, target, calibration, open_parents(models))
        weights = scores
    else:
        if base is None or len(trained_on) != len(models):
            raise UserError(
                f"nearest: --by {by} needs --base, and --data with a file of rows for each of the "
                f"{len(models)} models, but got {len(trained_on)}"
            )
        look = nearest.by_text if by == "text" else nearest.by_fisher
        scores = look(_named(base, None), trained_on, target, calibration, open_parents([base]))
        weights = [1.0] * len(models)  # a uniform soup of the nearest
    order = sorted(range(len(models)), key=lambda i: -scores[i])
    chosen = order[: arguments.k]
    text = nearest.average(
        [models[i] for i in chosen], [weights[i] for i in chosen], arguments.out_dtype
    ).to_yaml(arguments.out)
    name = {"likelihood": "posterior", "text": "cosine of texts", "fisher": "cosine of gradients"}
    for i in order:
        print(f"# {scores[i]:8.4f}  {models[i]}{'' if i in chosen else '  (left out)'}")
    print(f"# {name[by]}, by up to {arguments.draw} rows of each file")
    print(arguments.out if arguments.out is not None else text, end="\n" if arguments.out else "")


def _named(model: str, base: str | None) -> str:
    """Return a model's name, absolute where it is a folder; an adapter's with its base."""
    from evomerge.checkpoint.files.folder import ADAPTER_CONFIG, CONFIG
    from evomerge.checkpoint.names import relocated

    folder = Path(model)
    is_adapter = (folder / ADAPTER_CONFIG).is_file() and not (folder / CONFIG).is_file()
    if is_adapter and base is None:
        raise UserError(f"nearest: {model} is an adapter: name its model, --base MODEL")
    return relocated(f"{base}+{model}" if is_adapter else model, Path.cwd())


def _data(file: str) -> Any:
    from evomerge.recipe.rows import Data

    kind, document = Data.kind_of(str(Path(file).absolute()), "nearest")
    return kind(**document)
