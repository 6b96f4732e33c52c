"""`evomerge explain`: print which parents complement each other and which parameters mattered."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evomerge.cli.arguments import count
from evomerge.cli.run_folder import record_of
from evomerge.core.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser(
        "explain", help="which parents complement, which parameters mattered"
    )
    parser.add_argument("directory", type=Path, metavar="RUN")
    parser.add_argument(
        "--around",
        type=count,
        metavar="N",
        help="score N points on a line through the winner and N x N on a slice (N >= 3)",
    )
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the explanation; with ``--around`` score the landscape and write explain.json too.

    Raises:
        UserError: Nothing can be scored around the winner.
    """
    from evomerge.cli.display.lines import show, working
    from evomerge.core.atomic import user_errors, write_text
    from evomerge.report.explain import explanation, explanation_text

    directory: Path = arguments.directory
    with working("explain: importances of dimensions") as say:
        data = explanation(record_of(directory))
        if arguments.around is not None:
            say("explain: workers load models and tasks")
            about = directory, arguments.around, data["importance"]
            data["landscape"] = _landscape(*about, say)
    if arguments.around is not None:
        text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        with user_errors(directory / "explain.json"):
            write_text(directory / "explain.json", text)
    if arguments.json:
        print(json.dumps(data))
    else:
        show(explanation_text(data))


def _landscape(
    directory: Path, n: int, importance: Mapping[str, Any] | None, say: Callable[[str], None]
) -> dict[str, Any]:
    from evomerge.study.analysis.landscape import landscape

    if n < 3:
        raise UserError(f"--around: expected at least 3 points, but got {n}")

    def counted(scored: int, wanted: int) -> None:
        say(f"explain: {scored} of {wanted} recipes scored")

    if importance is None or importance["predicted"] <= 0:
        return landscape(directory, n, listener=counted)
    return landscape(directory, n, [*importance["dimensions"]], counted)
