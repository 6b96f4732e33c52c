"""Compares the parents in `evomerge check`: complementarity, barriers, how many are worth it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.evaluate.outcomes import OutcomeRow, ScoreKind
from evomerge.recipe.recipe import Recipe
from evomerge.report.explain import complement_lines
from evomerge.report.numbers import number, percent, plural
from evomerge.study.analysis.barriers import barriers, ends, midpoints
from evomerge.study.analysis.complement import complementarity
from evomerge.study.analysis.diversity import cosines
from evomerge.study.analysis.how_many import MOST_B, Curve, curve, subsets
from evomerge.study.config import StudyConfig
from evomerge.study.statistics.correlation import rank_correlation
from evomerge.study.statistics.outcome import Tasks, fitness
from evomerge.study.workers.requests import Answer, Evaluate, Scores
from evomerge.study.workers.scheduler import Scheduler, Unit

AT_MOST_SECONDS = 120.0  # what takes longer waits for --parents


def requests(config: StudyConfig, items: Mapping[str, Any]) -> list[Unit]:
    """Return a unit for each model, each midpoint of two, and averages of more; and by the metric
    for each parent.

    Each is tagged (what, name or names).
    """
    mode, models = config.evaluate.fitness, ends(config)

    def unit(tag: tuple[str, Any], recipe: Recipe, mode: ScoreKind = mode) -> Unit:
        return Unit(recipe.digest, Evaluate(recipe.to_dict(), [items], mode), tag)

    return [
        *(unit(("end", end.name), end.recipe) for end in models),
        *(unit(("metric", e.name), e.recipe, "metric") for e in models if e.kind == "parent"),
        *(unit(("midpoint", pair), recipe) for pair, recipe in midpoints(config).items()),
        *(unit(("average", names), recipe) for names, recipe in _averages(config).items()),
    ]


def _averages(config: StudyConfig) -> dict[tuple[str, ...], Recipe]:
    """Return averages of three parents and more, by their names."""
    parents = {end.name: end.recipe for end in ends(config) if end.kind == "parent"}
    recipes = {}
    for names in subsets(list(parents), config.search.seed):
        share = {"weight": 1 / len(names)}
        entries = [{"model": parents[n].models[0].model, "parameters": share} for n in names]
        recipes[names] = Recipe.from_dict({**parents[names[0]].to_dict(), "models": entries})
    return recipes


def parents_lines(
    config: StudyConfig, scheduler: Scheduler, units: list[Unit], tasks: Tasks
) -> list[str]:
    """Score the units, and say in words what came out; what fails is left out."""
    rows: dict[str, dict[Any, list[OutcomeRow]]] = {
        what: {} for what in ("end", "metric", "midpoint", "average")
    }

    def keep(unit: Unit, answer: Answer, _worker: int) -> None:
        if isinstance(answer, Scores):
            what, name = unit.tag
            rows[what][name] = [OutcomeRow(*row) for row in answer.rows]

    scheduler.run(units, keep)
    parents = [unit.tag[1] for unit in units if unit.tag[0] == "metric"]
    by_metric = {name: rows["metric"][name] for name in parents if name in rows["metric"]}
    between = {
        pair: midpoint_rows
        for pair, midpoint_rows in rows["midpoint"].items()
        if {*pair} <= {*rows["end"]}
    }
    mode = config.evaluate.fitness
    n_items = len(next(iter(between.values()), []))
    complement = complementarity(by_metric, tasks)
    pairs = barriers(rows["end"], between, tasks, mode)
    alone = {(name,): end_rows for name, end_rows in rows["end"].items() if name in parents}
    several = {
        **{pair: pair_rows for pair, pair_rows in between.items() if {*pair} <= {*parents}},
        **rows["average"],
    }
    scored = {names: fitness(each, tasks, mode) for names, each in {**alone, **several}.items()}
    return [
        *(complement_lines(complement) if complement else []),
        *barrier_lines(pairs, n_items),
        *diversity_lines(_cosines(config), complement, pairs),
        *curve_lines(curve(scored)),
    ]


def _cosines(config: StudyConfig) -> dict[tuple[str, str], float]:
    """Return the cosines of parents' deltas, by their names; none of a parent that is the base."""
    names = {end.recipe.models[0].model: end.name for end in ends(config) if end.kind == "parent"}
    models = [model for model in names if model != config.base_model]
    measured = cosines(config.base_model, models) if len(models) > 1 else {}
    return {(names[a], names[b]): value for (a, b), value in measured.items()}


def diversity_lines(
    alike: Mapping[tuple[str, str], float],
    complement: Mapping[str, Any] | None,
    pairs: list[dict[str, Any]],
) -> list[str]:
    """Return what each pair's training has in common beside what averaging the two gains."""
    if not alike:
        return []
    differ = {(p["a"], p["b"]): p["discordance"] for p in (complement or {"pairs": []})["pairs"]}
    gains = {(pair["a"], pair["b"]): -float(pair["barrier"]) for pair in pairs}
    lines = [
        "diversity: cosine of two parents' changes, items on which they differ, and what their "
        "average gains over the mean of the two"
    ]
    table = []
    for pair, cosine in sorted(alike.items(), key=lambda item: item[1]):
        gain, discordance = gains.get(pair), differ.get(pair)
        if gain is None or discordance is None:
            continue
        table.append((discordance, gain))
        shown = f"{number(cosine, sign=True)}, {percent(discordance)}, {number(gain, sign=True)}"
        lines.append(f"  {pair[0]} + {pair[1]}: {shown}")
    together = rank_correlation(table)
    if together is not None:
        lines.append(f"  rank correlation of the last two: {together:+.2f}")
    return lines if table else []


def curve_lines(fitted: Curve | None) -> list[str]:
    """Return the scores of averages by number of parents, and how many have most of the gain."""
    if fitted is None:
        return []
    means = ", ".join(f"{k} {number(mean)}" for k, mean in fitted.means.items())
    lines = [f"how many parents: mean score of averages of {means}"]
    most = max(fitted.means)
    if fitted.limit is None:
        lines.append("  averages of more parents score no higher: take few, or weigh them")
    elif fitted.b >= MOST_B:
        lines.append("  they rise almost in a straight line: each parent is worth it")
    else:
        lines.append(
            f"  fit {number(fitted.limit)} - {number(fitted.a)} / (k + {fitted.b:.2g}): "
            f"{fitted.enough} of {most} have nine tenths of what all gain over one"
        )
    beyond = [name for name, effect in fitted.effects.items() if effect < 0]
    if fitted.enough < most or fitted.limit is None:
        beyond = beyond[: most - (1 if fitted.limit is None else fitted.enough)]
        if beyond:
            lines.append(f"  averages score lower with than without: {', '.join(beyond)}")
    return lines


def barrier_lines(pairs: list[dict[str, Any]], n_items: int) -> list[str]:
    """Return the scores of the midpoints and what they mean for the search."""
    if not pairs:
        return []
    lines = [
        f"between two models, {plural(n_items, 'item')}: how far the score of their average falls "
        "below the mean of theirs; where it does, they lie in different basins and averages lose"
    ]
    lines += [f"  {pair['a']} + {pair['b']}: {_words(pair)}" for pair in pairs]
    return lines


def _words(pair: Mapping[str, Any]) -> str:
    drop = float(pair["barrier"])
    size = f"{number(abs(drop))} {'below' if drop > 0 else 'above'}"
    low, high = (number(-float(pair[end]), sign=True) for end in ("high", "low"))
    if pair["low"] > 0:
        advice = "a barrier: stay near one of them, or merge sparsely (TIES, DARE)"
    elif pair["high"] < 0:
        advice = "no barrier: averaging gains"
    else:
        advice = "no barrier seen on so few items"
    return f"{size} ({low} to {high}), {advice}"
