"""Gives all plots one look. The only door to the `matplotlib` package, imported when first used."""

from __future__ import annotations

from typing import Any

from evomerge.core.errors import UserError

# As on the report's page: each colour means one thing.
SEARCH, BASELINE, RANDOM, OTHER, INK = "#0b6bb3", "#c2511b", "#7e5aa6", "#a3abb5", "#1a1e23"
RUNS = ("#5c6b1f", "#96405f", "#2b6f7d", "#7a5a1e", "#585f9c", "#6e4a3a")
DIVERGING = ("#9c2f6e", "#eef0f3", "#1b6a3a")  # low, 0, high

_RULES: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#59636e",
    "axes.labelcolor": "#59636e",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dfe3e8",
    "grid.linewidth": 0.8,
    "xtick.color": "#59636e",
    "ytick.color": "#59636e",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.dpi": 110,
}


def axes(ax: Any, size: tuple[float, float]) -> Any:
    """Return the axes that were given, or new ones of this size in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot, rc_context
    except ModuleNotFoundError:
        raise UserError(
            "plots need the package matplotlib: python -m pip install 'evomerge[plot]'"
        ) from None
    if ax is not None:
        return ax
    with rc_context(_RULES):
        _, made = pyplot.subplots(figsize=size, layout="constrained")
    return made


def colours() -> Any:
    """Return the map of values to colours whose middle is neutral."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("evomerge", DIVERGING)
