"""Chooses the optimizer of a study that names none, by what was measured.

experiments/optimizer_benchmark: where every dimension changes the merge smoothly, gradients find
more than any search by scores alone, at a small part of the cost, on all of six zoos; else
`coarse_to_fine` in many dimensions along gradients over depth, and `catcma` in all other spaces.
In 60 dimensions `coarse_to_fine` was ahead of `catcma` on four of five zoos (.835 and .823, .874
and .871, .868 and .849, .506 and .393; but .867 and .888); in 20 `catcma` was ahead of it on two of
three, and of `cmaes` on three of four (.822 and .811, .870 and .869, .832 and .822; but .832 and
.848). Where some dimensions have a gradient, `adam` has the last seventh of the trials, as if no
elected sign changed: at equal cost that was ahead on every zoo (experiments/LOG.md, 2026-11-29).
"""

from __future__ import annotations

from dataclasses import replace

from evomerge.optimizers.coordinates import n_values
from evomerge.recipe.space.space import SearchSpace
from evomerge.study.config import StudyConfig, ThenConfig
from evomerge.study.journal.record import Record
from evomerge.study.phases.gradients import Chain, without_gradient

STEPS = 7  # one in so many trials is a step along gradients, after a search by scores
MANY = 40  # dimensions, beyond which `coarse_to_fine` was ahead on four zoos of five


def with_optimizer(
    config: StudyConfig, space: SearchSpace, external: bool = False
) -> tuple[StudyConfig, str]:
    """Return the configuration with an optimizer's name in it, and why it is this one.

    Args:
        config: The study's.
        space: Its space, bound.
        external: Whether the caller evaluates trials, with `ask` and `tell`: then there are no
            gradients.
    """
    if config.search.optimizer is not None:
        return config, "as the study says"
    name, why, then = _choice(config, space, external)
    return replace(config, search=replace(config.search, optimizer=name, then=then)), why


def as_begun(
    config: StudyConfig, space: SearchSpace, record: Record, external: bool
) -> StudyConfig:
    """Name the optimizer that a run began with, or chose when it began, if the study names none."""
    if config.search.optimizer is not None:
        return config
    begun = record.config.get("search", {})
    then = begun.get("then")
    search = replace(
        config.search,
        optimizer=begun.get("optimizer"),
        options=begun.get("options", {}),
        then=None if then is None else ThenConfig(**then),
    )
    return with_optimizer(replace(config, search=search), space, external)[0]


def _choice(
    config: StudyConfig, space: SearchSpace, external: bool
) -> tuple[str, str, ThenConfig | None]:
    dimensions = [d for d in space.dimensions if n_values(d) != 1]
    then = None
    if config.search.objective == "pareto":
        return "nsga2", "it searches for several objectives", None
    if external:
        why = "trials are evaluated externally, without gradients"
    elif without_gradient(config):
        why = "scores have no gradient here"
    else:
        start = tuple(dimension.start for dimension in space.dimensions)
        chain = Chain(space, start, config.base_model, piecewise=False)
        others = [dimension for dimension in chain.others if n_values(dimension) != 1]
        if dimensions and not others:
            why = (
                f"each of the {len(dimensions)} dimensions changes the merge smoothly, and right "
                "answers have a likelihood: gradients say how"
            )
            return "adam", why, None
        why = f"{len(others)} of {len(dimensions)} dimensions have no gradient"
        followed = len(Chain(space, start, config.base_model, piecewise=True).smooth)
        steps = config.search.trials // STEPS
        if followed and steps:
            then = ThenConfig("adam", config.search.trials - steps, {"piecewise": True})
            why += f"; adam follows the {followed} others in the last {steps} trials"
    if len(dimensions) > MANY and any(d.knot is not None for d in dimensions):
        why += (
            f"; in {len(dimensions)} dimensions along gradients over depth it was ahead of catcma "
            "on four zoos of five"
        )
        return "coarse_to_fine", why, then
    why += "; it was ahead of cmaes on three zoos of four, and takes choices"
    return "catcma", why, then
