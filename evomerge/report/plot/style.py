"""Gives all plots one look. The only door to the `matplotlib` package, imported when first used."""

from __future__ import annotations

from typing import Any

from evomerge.core.errors import UserError

# As on the report's page: each colour means one thing.
SEARCH, BASELINE, RANDOM, OTHER, INK = "#0b6bb3", "#c2511b", "#7e5aa6", "#a3abb5", "#1a1e23"
RUNS = ("#5c6b1f", "#96405f", "#2b6f7d", "#7a5a1e", "#585f9c", "#6e4a3a")
DIVERGING = ("#9c2f6e", "#eef0f3", "#1b6a3a")  # low, 0, high

_LINES, _WORDS = "#dfe3e8", "#59636e"


def axes(ax: Any, size: tuple[float, float]) -> Any:
    """Return the axes that were given, or new ones of this size in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise UserError(
            "plots need the package matplotlib: python -m pip install 'evomerge[plot]'"
        ) from None
    if ax is not None:
        return ax
    # No rc_context: where it is around a notebook's first figure, it undoes what shows the next.
    _, made = pyplot.subplots(figsize=size, layout="constrained", dpi=110)
    made.spines[["top", "right"]].set_visible(False)
    made.spines[["left", "bottom"]].set_color(_WORDS)
    made.tick_params(colors=_WORDS, labelsize=9)
    made.xaxis.label.set(color=_WORDS, size=9.5)
    made.yaxis.label.set(color=_WORDS, size=9.5)
    made.title.set(size=10.5, weight="bold")
    made.grid(True, color=_LINES, linewidth=0.8)
    made.set_axisbelow(True)
    return made


def colours() -> Any:
    """Return the map of values to colours whose middle is neutral."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("evomerge", DIVERGING)
