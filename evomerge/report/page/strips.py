"""Shows what the best trials have in common: a strip per dimension, tables of nominal choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from evomerge.report.charts.heat_map import Band, heat_map
from evomerge.report.charts.layout import HALF, Entry, is_narrow, legend, responsive
from evomerge.report.charts.svg import Figure, Scale
from evomerge.report.findings.dimensions import Choice, Dimensions, Strip, dimensions
from evomerge.report.numbers import NONE, number, percent, plural
from evomerge.report.run import Run

_MOST_STRIPS, _MOST_DOTS, _MOST_GROUPS, _MOST_ROWS = 16, 200, 12, 16
_MOST_CELLS = 640  # of the map by layer
_MEASURES = {
    "regression": "Importance is the share of the differences in gain that a dimension explains, "
    "by a regression over {trials} that predicts {predicted} of the differences of trials it has "
    "not seen.",
    "path": "Importance is the share of the fall of the loss along the path of the search that "
    "came from moving this dimension: gradient times step, added up. Below 0 it raised the loss. "
    "Steps see different items, so small shares are noise.",
    "apart": "Nothing can be said of importance: over {trials} no dimension predicts the gain of "
    "trials held back. Dimensions are ordered by how far the best trials lie from the others, "
    "which may be chance.",
}


def section(run: Run) -> dict[str, Any]:
    """Return strips, the map of layers, the tables of choices; empty before two trials."""
    findings = dimensions(run)
    if findings is None:
        return {}
    known = findings.measure != "apart"
    ranged = len(findings.strips)
    shown = findings.strips[:_MOST_STRIPS]
    predicted = percent(max(0.0, findings.predicted or 0.0))
    trials = plural(findings.trials, "trial")
    return {
        "measure": _MEASURES[findings.measure].format(trials=trials, predicted=predicted),
        "strips": _strips(shown, known) if shown else None,
        "legend": _legend(findings),
        "groups": _groups(findings) if known and len(findings.groups) > 1 else None,
        "map": _map(findings, run.depth) if known else None,
        "choices": [
            {
                "name": nominal.name,
                "share": percent(nominal.share) if known and nominal.share is not None else "",
                "rows": [_row(choice, findings) for choice in nominal.choices],
            }
            for nominal in findings.nominal[:_MOST_STRIPS]
        ],
        "n_best": findings.n_best,
        "of": findings.trials,
        "shown": len(shown),
        "ranged": ranged,
        "left_choices": max(0, len(findings.nominal) - _MOST_STRIPS),
    }


def _legend(findings: Dimensions) -> Markup:
    best = f"the best {findings.n_best}"
    entries: list[Entry] = [("bar", "band1", f"where {best} lie"), ("dot", "f1", best)]
    if findings.trials > findings.n_best:
        entries.append(("dot", "f5", "others"))
    entries += [("square", "hollow", "start"), ("square", "ours", "recommended, or the leader")]
    return legend(entries)


def _strips(strips: Sequence[Strip], known: bool) -> Markup:
    def draw(width: float) -> Markup:
        narrow = is_narrow(width)
        step, top = (50.0, 8.0) if narrow else (32.0, 22.0)
        left, right = (44.0, width - 40) if narrow else (340.0, width - 110)
        height = top + step * len(strips) + 4
        figure = Figure(width, height, "Where the best trials lie in each dimension's range")
        at = Scale(0.0, 1.0, left, right)
        if not narrow:
            figure.text(width, 12, "importance" if known else "distance", "axis", "end")
        for i, strip in enumerate(strips):
            y = top + step * (i + 0.5) + (9 if narrow else 0)
            share = _share(strip.share, known)
            if narrow:
                figure.text(0, y - 16, strip.name, "", "start", width - 60)
                figure.text(width, y - 16, share, "value", "end")
            else:
                figure.text(left - 52, y + 4, strip.name, "", "end", left - 56)
                figure.text(width, y + 4, share, "value", "end")
            _strip(figure, at, y, strip)
        return figure.markup()

    return responsive(draw)


def _strip(figure: Figure, at: Scale, y: float, strip: Strip) -> None:
    d = strip.dimension
    figure.rule(at.start, y, at.end, y)
    low, high = (f"{end:g}".replace("-", "−") for end in (d.low, d.high))
    figure.text(at.start - 7, y + 4, low, "tick", "end", 44)
    figure.text(at.end + 7, y + 4, high, "tick", "start", 44)
    first, last = min(strip.best), max(strip.best)
    tip = f"{strip.name}: the best lie from {_value(strip, first)} to {_value(strip, last)}"
    figure.rect(at(first) - 4, y - 8, at(last) - at(first) + 8, 16, "band1", tip)
    step = max(1, -(-len(strip.others) // _MOST_DOTS))
    figure.specks(((at(position), y) for position in strip.others[::step]), "s5 faint")
    figure.specks(((at(position), y) for position in strip.best[:40]), "s1")
    figure.dot(at(strip.start), y, "hollow", f"start: {_value(strip, strip.start)}", 4, True)
    if strip.chosen is not None:
        figure.dot(at(strip.chosen), y, "ours", f"chosen: {_value(strip, strip.chosen)}", 4, True)


def _value(strip: Strip, position: float) -> str:
    d = strip.dimension
    if d.log:
        return number(d.low * (d.high / d.low) ** position)
    value = d.low + position * (d.high - d.low)
    return f"{value:.0f}" if d.kind == "int" else number(value)


def _share(share: float | None, known: bool) -> str:
    if share is None:
        return NONE
    return percent(share) if known else number(share)


def _groups(findings: Dimensions) -> Markup:
    """Draw the importance of what dimensions set, at whatever depth, as bars."""
    groups = list(findings.groups.items())[:_MOST_GROUPS]
    largest = max(abs(share) for _, share in groups) or 1.0

    def draw(width: float) -> Markup:
        narrow = is_narrow(width)
        left = 0.0 if narrow else 260.0
        step = 36.0 if narrow else 24.0
        figure = Figure(width, step * len(groups) + 6, "Importance by what dimensions set")
        at = Scale(0.0, largest, left, width - 60)
        for i, (name, share) in enumerate(groups):
            y = step * i + (16 if narrow else 0)
            if narrow:
                figure.text(0, y - 3, name, "", "start", width)
            else:
                figure.text(left - 10, y + 15, name, "", "end", left - 14)
            kind = "f1" if share >= 0 else "f5"
            figure.rect(left, y + 3, at(abs(share)) - left, 15, kind, f"{name}: {percent(share)}")
            figure.text(at(abs(share)) + 7, y + 15, percent(share), "value small")
        return figure.markup()

    return responsive(draw, HALF * 1.4)


def _map(findings: Dimensions, depth: int | None) -> Markup | None:
    """Draw importance by group and layer, where dimensions belong to one layer each."""
    if not findings.layers:
        return None
    layers = range(depth or 1 + max(layer for _, layer in findings.layers))
    totals: dict[str, float] = {}
    for (group, _), share in findings.layers.items():
        totals[group] = totals.get(group, 0.0) + share
    most = min(_MOST_ROWS, max(4, _MOST_CELLS // len(layers)))
    rows = sorted(totals, key=lambda group: -totals[group])[:most]
    values = [[findings.layers.get((group, layer)) for layer in layers] for group in rows]
    known = [abs(v) for row in values for v in row if v is not None]
    low = min((v for row in values for v in row if v is not None), default=0.0)
    top = max([*known, 1e-9])
    bands = [Band(str(layer)) for layer in layers]
    percents = [[None if v is None else 100 * v for v in row] for row in values]
    ends = (-100 * top if low < 0 else 0.0, 100 * top)

    def draw(width: float) -> Markup:
        aria = "Importance by layer, in percent"
        return heat_map(rows, bands, percents, ends, aria, width=width, label=250, unit=" %")

    return responsive(draw)


def _row(choice: Choice, findings: Dimensions) -> dict[str, str]:
    error = "" if choice.error is None else f" ± {number(choice.error)}"
    return {
        "value": str(choice.value),
        "count": f"{choice.count:,}",
        "best": f"{choice.best:,} of {findings.n_best:,}",
        "gain": NONE if choice.mean is None else number(choice.mean, sign=True) + error,
    }
