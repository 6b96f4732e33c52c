"""The coefficients section draws a recipe by depth: heat maps of parameters, a strip of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.recipe.data import RecipeData
from evomerge.report import recipe_view
from evomerge.report.charts.heat_map import Band, heat_map
from evomerge.report.charts.layout import Entry, is_narrow, legend, responsive
from evomerge.report.charts.path import Step, path
from evomerge.report.charts.svg import Figure, scale, text_width
from evomerge.report.findings.dimensions import named
from evomerge.report.numbers import plural, short_names
from evomerge.report.recipe_view import Spot
from evomerge.report.run import Run
from evomerge.report.status import summary
from evomerge.study.journal.trials import TrialRecord

_MOST_MAPS, _MOST_CELLS = 12, 900
Column = tuple[Band, Sequence[Spot]]


def section(run: Run) -> dict[str, Any]:
    """Draw the recommended recipe, and the race winner if it is another; or the leader so far."""
    numbers = [n for n in (run.recommended, run.ours) if n is not None]
    leader = summary(run.record)["leader"]
    if not numbers and leader is not None:
        numbers = [leader["trial"]]
    if not numbers:
        return {"missing": "No candidate has been scored yet."}
    shown = [_shown(run, run.record.trials[n]) for n in dict.fromkeys(numbers)]
    return {"recipes": shown, "unfinished": run.recommended is None}


def _shown(run: Run, trial: TrialRecord) -> dict[str, Any]:
    try:
        return _drawn(run, trial)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # read without methods
        raise UserError(
            f"{run.folder}: the journal's recipe of {trial.name} was not written by evomerge "
            f"({type(error).__name__}: {error}): restore a copy of the journal"
        ) from None


def _drawn(run: Run, trial: TrialRecord) -> dict[str, Any]:
    recipe = recipe_view.recorded(trial.recipe)
    depth = run.depth or recipe_view.depth_of(recipe)
    steps = recipe_view.steps(recipe)
    maps, fixed, left_out = ([], [], 0) if steps else _maps(recipe, depth)
    return {
        "path": _path(run, steps) if steps else None,
        "name": trial.name,
        "role": _role(run, trial),
        "method": _methods(recipe, depth),
        "maps": maps,
        "left_out": left_out,
        "fixed": fixed,
        "by_tensor": ", ".join(
            end.removesuffix(".weight") for end in recipe_view.LAYER_PARTS.values()
        )
        if recipe_view.is_by_tensor(recipe)
        else "",
        "assumed_depth": run.depth is None,
        "depth": depth,
        "yaml": yaml_file.write(dict(trial.recipe)),
        "edges": _at_the_edge(run, trial),
    }


def _path(run: Run, steps: Sequence[tuple[str, int, float]]) -> Markup:
    """Draw a path through layers; a model's depth is the base's, or that of what is seen of it."""
    names = short_names([model for model, _, _ in steps])
    depths: dict[str, int] = {}
    for model, layer, _ in steps:
        depths[model] = max(depths.get(model, run.depth or 1), layer + 1)
    drawn = [Step(names[model], layer, depths[model], hop) for model, layer, hop in steps]
    return responsive(partial(path, drawn, "Layers of models in the order in which they run"))


def _role(run: Run, trial: TrialRecord) -> str:
    if trial.number == run.recommended:
        return "recommended and exported" if run.record.exported else "recommended"
    return "won the race" if trial.number == run.ours else "furthest ahead in the search so far"


def _maps(recipe: RecipeData, depth: int) -> tuple[list[dict[str, Any]], list[str], int]:
    """Draw a heat map per parameter and group of components.

    Returns:
        The maps, what is constant, and how many maps are left out because there are too many.
    """
    cells_drawn = left_out = 0
    names = short_names(recipe_view.models(recipe))
    maps: list[dict[str, Any]] = []
    fixed: list[str] = []
    spots = recipe_view.spots(depth)
    for parameter, per_model in recipe_view.parameters(recipe).items():
        rows: dict[str, str | None] = {"all models": None}
        if per_model:
            rows = {name: model for model, name in names.items()}
        table = {
            (name, spot): recipe_view.value(recipe, parameter, model, spot, depth)
            for name, model in rows.items()
            for spot in spots
        }
        rows = {
            name: m for name, m in rows.items() if any(table[name, s] is not None for s in spots)
        }
        values = [table[name, spot] for name in rows for spot in spots]
        if not values or all(value == values[0] for value in values):
            fixed += [f"{parameter} = {_plain(values[0])}"] if values else []
            continue
        numeric = {key: None if v is None else float(v) for key, v in table.items()}
        ends = _ends(parameter, [v for v in numeric.values() if v is not None])
        layouts = [
            (title, columns, _cells(rows, columns, numeric))
            for title, columns in _layouts(list(rows), table, depth)
        ]
        filled = [part for part in layouts if any(v is not None for row in part[2] for v in row)]
        for title, columns, cells in filled:
            cells_drawn += len(rows) * len(columns)
            if maps and (len(maps) == _MOST_MAPS or cells_drawn > _MOST_CELLS):
                left_out += 1
                continue
            bands, last = [band for band, _ in columns], title == filled[-1][0]
            aria = f"{parameter} by model and layer"
            draw = partial(heat_map, list(rows), bands, cells, ends, aria, last)
            maps.append({"title": f"{parameter}{title}", "figure": responsive(draw)})
    return maps, fixed, left_out


def _cells(
    rows: Iterable[str], columns: Sequence[Column], table: Mapping[tuple[str, Spot], float | None]
) -> list[list[float | None]]:
    """Return a value per row and column, the first spot's of the column: all are alike."""
    return [[table[name, column[0]] for _, column in columns] for name in rows]


def _layouts(
    rows: Sequence[str], table: Mapping[tuple[str, Spot], Any], depth: int
) -> list[tuple[str, list[Column]]]:
    """Return one layout if all components of a layer are alike, else one per group of like ones."""

    def signature(column: Sequence[Spot]) -> list[Any]:
        return [table[name, spot] for name in rows for spot in column]

    by_part = {
        part: [Spot(i, part, f"model.layers.{i}.{end}") for i in range(depth)]
        for part, end in recipe_view.LAYER_PARTS.items()
    }
    groups: list[list[str]] = []
    for part, column in by_part.items():
        like = next((g for g in groups if signature(by_part[g[0]]) == signature(column)), None)
        if like is None:
            groups.append([part])
        else:
            like.append(part)
    outside = _outside(signature)
    if len(groups) == 1:
        layers = _layers(by_part["attention"], signature)
        if len(layers) == 1 and len(outside) == 1:
            same = signature(layers[0][1]) == signature(outside[0][1])
            if same:
                return [("", [(Band("everywhere", outside=True), layers[0][1])])]
        first, behind = (outside, []) if len(outside) == 1 else (outside[:1], outside[1:])
        return [("", [*first, *layers, *behind])]
    maps = [(f", {' and '.join(group)}", _layers(by_part[group[0]], signature)) for group in groups]
    return [*maps, (", outside the layers", outside)]


def _layers(column: Sequence[Spot], signature: Any) -> list[Column]:
    """Return layers as columns, neighbours that are alike as one."""
    runs: list[list[Spot]] = []
    for spot in column:
        if runs and signature([runs[-1][0]]) == signature([spot]):
            runs[-1].append(spot)
        else:
            runs.append([spot])
    return [
        (
            Band(
                str(run[0].layer) if len(run) == 1 else f"{run[0].layer}–{run[-1].layer}", len(run)
            ),
            run,
        )
        for run in runs
    ]


def _outside(signature: Any) -> list[Column]:
    """Return embedding, final norm and head as columns; one column if they are alike."""
    column = [Spot(None, part, name) for part, name in recipe_view.OUTSIDE.items()]
    if all(signature([spot]) == signature([column[0]]) for spot in column):
        return [(Band("outside", outside=True), column[:1])]
    labels = {"embedding": "embed", "norm": "final norm", "head": "head"}
    return [(Band(labels[spot.component], outside=True), [spot]) for spot in column]


def _ends(parameter: str, values: Sequence[float]) -> tuple[float, float]:
    """Return values that take the full colours."""
    least = 1.0 if parameter in ("weight", "density", "t") else 0.0
    high = scale([0.0, least, *map(abs, values)], 0, 1, 4).high
    return (-high if min(values) < 0 else 0.0), high


def _methods(recipe: RecipeData, depth: int) -> dict[str, Any]:
    """Return the method, or where several are used a strip that shows which holds where."""
    method_by_spot = {
        spot: recipe_view.method_at(recipe, spot, depth) for spot in recipe_view.spots(depth)
    }
    used = list(dict.fromkeys(method_by_spot.values()))
    if len(used) == 1:
        return {"name": used[0]}
    parts = list(recipe_view.LAYER_PARTS)

    def draw(width: float) -> Markup:
        left, bottom = 92.0 if is_narrow(width) else 190.0, 30 * len(parts) + 8
        figure = Figure(width, bottom + 40, "Merge method by component and layer")
        wide = min((width - left) / depth, 110.0)
        for i, part in enumerate(parts):
            figure.text(left - 12, 27 + 30 * i, part, "", "end")
            for name, first, end in _stretches(method_by_spot, part, depth):
                x, w = left + wide * first, wide * (end - first)
                tip = f"{part}, layers {first} to {end - 1}: {name}"
                figure.rect(x + 1, 8 + 30 * i, w - 2, 28, _band(used, name), tip)
                if text_width(name) < w - 8:
                    figure.text(x + w / 2, 26 + 30 * i, name, "onband", "middle")
        for layer in range(0, depth, max(1, round(34 / wide))):
            figure.text(left + wide * (layer + 0.5), bottom + 16, str(layer), "tick", "middle")
        figure.text(left + wide * depth / 2, bottom + 34, "layer", "axis", "middle")
        return figure.markup()

    entries: list[Entry] = [("bar", _band(used, name), name) for name in used]
    outside = {spot.component: name for spot, name in method_by_spot.items() if spot.layer is None}
    return {
        "figure": legend(entries) + responsive(draw),
        "outside": ", ".join(f"{part}: {name}" for part, name in outside.items()),
    }


def _band(used: Sequence[str], name: str) -> str:
    """Return the class of a method's colour, which stands for nothing else on the page."""
    return f"m{1 + used.index(name) % 6} band"


def _stretches(
    method_by_spot: Mapping[Spot, str], part: str, depth: int
) -> list[tuple[str, int, int]]:
    """Return (method, first layer, end) of neighbouring layers with one method."""
    stretches = []
    first = 0
    for layer in range(1, depth + 1):
        name = _name(method_by_spot, part, first)
        if layer == depth or _name(method_by_spot, part, layer) != name:
            stretches.append((name, first, layer))
            first = layer
    return stretches


def _name(method_by_spot: Mapping[Spot, str], part: str, layer: int) -> str:
    end = recipe_view.LAYER_PARTS[part]
    return method_by_spot.get(Spot(layer, part, f"model.layers.{layer}.{end}"), "")


def _at_the_edge(run: Run, trial: TrialRecord) -> str:
    """Name the coordinates at an end of their range, a sign that the range is too narrow."""
    dimensions = run.record.dimensions
    if trial.point is None or len(trial.point) != len(dimensions):
        return ""
    names = named(dimensions, run.depth)
    at_edge = [
        name
        for name, d, v in zip(names, dimensions, trial.point, strict=True)
        if d.kind != "categorical" and min(v - d.low, d.high - v) <= 0.005 * (d.high - d.low)
    ]
    ranged = sum(d.kind != "categorical" for d in dimensions)
    if not at_edge or not ranged:
        return ""
    return (
        f"{len(at_edge)} of {plural(ranged, 'value')} lie at an end of their range: "
        + "; ".join(at_edge[:6])
        + (" …" if len(at_edge) > 6 else ".")
    )


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
