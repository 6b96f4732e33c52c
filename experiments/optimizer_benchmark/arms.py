"""The arms: which optimizer, how it scores a candidate, where it starts, how it answers."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Arm:
    """How one arm searches.

    Attributes:
        optimizer: A name in evomerge's registry, or a peer's.
        options: The optimizer's options.
        per_task: Items of each task that a candidate is scored on.
        score: ``smooth`` (likelihood of the right answer) or ``metric`` (exact match, decoded).
        redraw: Whether every generation sees other items.
        paired: Whether it is told how far a candidate is ahead of the best anchor on its items, as
            those that keep an eye on their start always are.
        anchored: Whether it scores the anchors first, starts from the best and ends with a race;
            otherwise it starts where its authors start and answers with the best score seen.
        then: The optimizer, and its options, that goes on where the first one ends.
        share: What of the cost the first one has, if another follows.
    """

    optimizer: str
    options: dict[str, Any] = field(default_factory=dict)
    per_task: int = 8
    score: Literal["smooth", "metric"] = "smooth"
    redraw: bool = True
    paired: bool = False
    anchored: bool = True
    then: tuple[str, dict[str, Any]] | None = None
    share: float = 0.5

    @property
    def is_paired(self) -> bool:
        """Whether the optimizer is told leads over the best anchor."""
        return self.paired or self.optimizer in ("catcma", "cmaes", "sepcma", "coarse_to_fine")


ARMS = {
    "mergekit-evolve": Arm(
        "mergekit-evolve", per_task=16, score="metric", redraw=False, anchored=False
    ),
    "mergenetic": Arm("mergenetic", per_task=16, score="metric", redraw=False, anchored=False),
    "random": Arm("random"),
    "tpe": Arm("tpe"),
    "cmaes": Arm("cmaes"),
    "catcma": Arm("catcma"),
    "sobol": Arm("sobol"),
    "sepcma": Arm("sepcma"),
    "de": Arm("de", paired=True),
    "genetic": Arm("genetic", paired=True),
    "swarm": Arm("swarm", paired=True),
    "map_elites": Arm("map_elites", paired=True),
    # what makes the difference? one thing changed at a time
    "mergekit-evolve, from the best anchor": Arm(
        "mergekit-evolve", {"start": "anchor"}, 16, "metric", redraw=False, anchored=False
    ),
    "catcma, σ .12": Arm("catcma", {"sigma": 0.12}),
    "catcma, σ .17": Arm("catcma", {"sigma": 0.17}),
    "catcma, 4 items": Arm("catcma", per_task=4),
    "catcma, 2 items": Arm("catcma", per_task=2),
    "catcma, 4 items, σ .12": Arm("catcma", {"sigma": 0.12}, per_task=4),
    "catcma, 4 items, σ .17": Arm("catcma", {"sigma": 0.17}, per_task=4),
    "cmaes, 4 items": Arm("cmaes", per_task=4),
    "cmaes, 4 items, σ .17": Arm("cmaes", {"sigma": 0.17}, per_task=4),
    "sepcma, 4 items, σ .17": Arm("sepcma", {"sigma": 0.17}, per_task=4),
    "catcma, 16 items": Arm("catcma", per_task=16),
    "catcma, 48 items": Arm("catcma", per_task=48),
    "catcma, metric": Arm("catcma", per_task=8, score="metric"),
    "catcma, fixed items": Arm("catcma", per_task=8, redraw=False),
    "catcma, population 8": Arm("catcma", {"population": 8}),
    "catcma, population 32": Arm("catcma", {"population": 32}),
    "tpe, paired": Arm("tpe", paired=True),
    "genetic, not paired": Arm("genetic"),
    "tpe, fixed items": Arm("tpe", redraw=False),
    "coarse_to_fine, 4 items": Arm("coarse_to_fine", per_task=4),
    # soups: a plan of few candidates, so on as many items as the budget allows, always the same
    "greedy_soup": Arm("greedy_soup", per_task=32, redraw=False),
    "coordinate_grid": Arm("coordinate_grid", per_task=26, redraw=False),
    "lottery_pools": Arm("lottery_pools", per_task=19, redraw=False),
    "simplex_grid": Arm("simplex_grid", per_task=20, redraw=False),
    "lorahub": Arm("lorahub", per_task=8, redraw=False),
    # gradients: three item evaluations an item; without anchors, from .5 and without a race
    "adam": Arm("adam", per_task=4),
    "adam, 8 items": Arm("adam", per_task=8),
    "adam, lr .05": Arm("adam", {"lr": 0.05}, per_task=4),
    "adam, margin": Arm("adam", {"loss": "margin"}, per_task=4),
    "adam, entropy": Arm("adam", {"loss": "entropy"}, per_task=4),
    "hybrid": Arm("catcma", per_task=4, then=("adam", {"piecewise": True})),
    "hybrid, 6/7 evolution": Arm(
        "catcma", per_task=4, then=("adam", {"piecewise": True}), share=6 / 7
    ),
    "adam alone": Arm("adam", per_task=4, anchored=False),
    "adam alone, lr .01": Arm("adam", {"lr": 0.01}, per_task=4, anchored=False),
    "adam alone, lr .03": Arm("adam", {"lr": 0.03}, per_task=4, anchored=False),
    "adam alone, line": Arm("adam", {"loss": "line"}, per_task=4, anchored=False),
    "adam alone, dpo": Arm("adam", {"loss": "dpo"}, per_task=4, anchored=False),
}

# Compared in every space; the rest says what makes the difference, in one.
HEADLINE = ("catcma, 4 items", "mergekit-evolve", "mergenetic", "random", "tpe", "cmaes")
