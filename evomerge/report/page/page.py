"""Writes the report: one HTML file that needs nothing else, from a run folder alone."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from evomerge.core.atomic import write_text
from evomerge.core.errors import UserError
from evomerge.report.page import (
    anchors,
    coefficients,
    constraints,
    convergence,
    cost,
    examples,
    heldout,
    honesty,
    pareto,
    provenance,
    strips,
    trials,
    verdict,
)
from evomerge.report.page import (
    race as race_table,
)
from evomerge.report.run import Run

_ASSETS = Path(__file__).parent / "assets"


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not; returns its file.

    Equal journals make equal files: nothing in them depends on when they are written.

    Args:
        run: The run folder.
        out: The file; ``None`` means report.html in the run folder.

    Raises:
        UserError: There is no journal, it is damaged, or the file can't be written.
    """
    target = Path(out) if out is not None else Path(run) / "report.html"
    text = page(Run.read(run))
    try:
        # a journal may hold lone surrogates, which no encoding writes as they are
        write_text(target, text, errors="xmlcharrefreplace")
    except OSError as error:
        raise UserError(
            f"cannot write the report {target}: {error.strerror}; name another file (--out)"
        ) from None
    return target


def page(run: Run) -> str:
    """Return the report as text."""
    sections: dict[str, Any] = {
        "verdict": verdict.section(run),
        "heldout": heldout.section(run),
        "examples": examples.section(run),
        "convergence": convergence.section(run),
        "pareto": pareto.section(run),
        "constraints": constraints.section(run),
        "strips": strips.section(run),
        "anchors": anchors.section(run),
        "coefficients": coefficients.section(run),
        "race": race_table.section(run),
        "honesty": honesty.section(run),
        "cost": cost.section(run),
        "trials": trials.section(run),
        "provenance": provenance.section(run),
    }
    return render("report.html.jinja", **sections, title=run.folder.resolve().name)


def render(template: str, **values: Any) -> str:
    """Fill in a page that loads nothing, with the style and the script of all pages."""
    script = (_ASSETS / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = Markup((_ASSETS / "report.css").read_text(encoding="utf-8"))
    filled = _environment().get_template(template)
    return filled.render(**values, style=style, script=Markup(script), script_digest=digest)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """Return a name that may be broken behind an underscore, a slash or a hyphen."""
    text = str(escape(name))
    for sign in "_/-":
        text = text.replace(sign, f"{sign}<wbr>")
    return Markup(text)
