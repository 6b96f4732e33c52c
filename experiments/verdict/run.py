"""Measures how often a verdict announces a false improvement, and how often a true one.

    python experiments/verdict/run.py              every table, about ten minutes on one core
    python experiments/verdict/run.py looks        one table, by its name (`TABLES`)

Tables go to stdout as Markdown, and to result.json. `scores(...)` draws what models get on items;
`METHODS` are p-values, one-sided, of "ours is no better than theirs": the package's own, the
interval that it had before (Student's t with an imaginary item as large as the largest difference
seen), and betting (Waudby-Smith & Ramdas 2024, https://arxiv.org/abs/2010.09686), which has a proof
for every bounded metric.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtr

from evomerge.evaluate.outcomes import OutcomeRow
from evomerge.study.statistics.comparison import Entrant
from evomerge.study.statistics.outcome import Tasks
from evomerge.study.statistics.paired import chance
from evomerge.study.statistics.race import Race
from evomerge.study.statistics.verdict import confidence_at, verdict

Array = NDArray[np.float64]
Row = list[object]
TAIL = 0.025


def task(metric: str = "acc", weight: float = 1.0) -> dict[str, object]:
    return {"metric": metric, "higher_is_better": True, "weight": weight}


# -- what models score ------------------------------------------------------------------------


def right(rng: np.random.Generator, accuracies: Sequence[float], shared: float, n: int) -> Array:
    """0/1 scores (models, n): `shared` is the correlation of the models' latent difficulty."""
    residual = rng.standard_normal((len(accuracies), n))
    z = math.sqrt(shared) * rng.standard_normal((1, n)) + math.sqrt(1 - shared) * residual
    return (z < ndtri(np.array(accuracies))[:, None]).astype(np.float64)


def in_clusters(
    rng: np.random.Generator, accuracies: Sequence[float], size: int, within: float, n: int
) -> Array:
    """0/1 scores of items in groups of `size`, whose models differ alike: `within` is how much."""
    k = len(accuracies)
    group = np.repeat(rng.standard_normal((k, n // size)), size, axis=1)
    residual = math.sqrt(within) * group + math.sqrt(1 - within) * rng.standard_normal((k, n))
    z = math.sqrt(0.3) * rng.standard_normal((1, n)) + math.sqrt(0.7) * residual
    return (z < ndtri(np.array(accuracies))[:, None]).astype(np.float64)


def skewed(rng: np.random.Generator, losers: float, n: int, scale: float) -> tuple[Array, Array]:
    """Ours gains a little on most items and loses 1/losers - 1 times that on the few others."""
    theirs = np.clip(0.5 + 0.1 * rng.standard_normal(n), 0.3, 0.7)
    loses = rng.random(n) < losers
    gain = scale * np.where(loses, -(1 - losers) / losers, 1.0)
    return theirs + gain, theirs


# -- p-values ---------------------------------------------------------------------------------


def student(ours: Array, theirs: Array, _bounded: bool) -> float:
    d = ours - theirs
    n, largest = len(d), max(float(np.abs(d).max()), 1e-12)
    c = d.sum() / (n + 1)
    s2 = (d @ d + largest**2) / (n + 1) - c * c
    return float(stdtr(n, -c / math.sqrt(s2 / n)))


def ours_now(ours: Array, theirs: Array, bounded: bool) -> float:
    return chance({"t": ours}, {"t": theirs}, {"t": task("acc" if bounded else "score")})


def betting(ours: Array, theirs: Array, _bounded: bool) -> float:
    """With the best bet for these data's own variance, which a real one has to learn."""
    d = ours - theirs
    bet = min(0.99, math.sqrt(2 * math.log(1 / TAIL) / max(float(d @ d), 1e-12)))
    return math.exp(-max(0.0, min(700.0, float(np.log1p(bet * d).sum()))))


METHODS: dict[str, Callable[[Array, Array, bool], float]] = {
    "before": student,
    "now": ours_now,
    "betting": betting,
}


# -- tables -----------------------------------------------------------------------------------


def one_comparison(rng: np.random.Generator) -> Iterator[Row]:
    """One rival, one task: the rate at the one-sided 2.5 %. First the false one, then the power."""
    yield ["scores", "items", "true gain", *METHODS]
    studies = 3000
    for shared, n, gain in [
        *((0.7, n, 0.0) for n in (20, 50, 150, 400)),
        (0.9, 400, 0.0),
        (0.0, 400, 0.05),
        (0.7, 400, 0.05),
        (0.9, 400, 0.05),
        (0.7, 1000, 0.03),
        (0.7, 100, 0.1),
    ]:
        draws = [right(rng, (0.5 + gain, 0.5), shared, n) for _ in range(studies)]
        yield [f"right or wrong, correlation {shared}", n, gain, *_rates(draws, True)]
    for losers, n in [(0.02, 50), (0.02, 150), (0.01, 400)]:
        draws = [np.stack(skewed(rng, losers, n, 0.005)) for _ in range(studies // 2)]
        label = f"{losers:.0%} lose {1 / losers - 1:.0f} times what the rest gain"
        yield [f"in [0, 1], {label}", n, 0.0, *_rates(draws, True)]
        yield [f"no bounds, {label}", n, 0.0, *_rates(draws, False)[:2], "–"]
    for n, gain in [(150, 0.0), (150, 0.03), (400, 0.02)]:
        draws = []
        for _ in range(studies // 3):
            theirs = rng.beta(2, 2, n)
            ours = np.clip(theirs + 0.12 * rng.standard_normal(n) + gain, 0, 1)
            draws.append(np.stack([ours, theirs]))
        yield ["in [0, 1], symmetric", n, gain, *_rates(draws, True)]


def _rates(draws: Sequence[Array], bounded: bool) -> list[str]:
    return [
        _percent(sum(p(ours, theirs, bounded) < TAIL for ours, theirs in draws), len(draws))
        for p in METHODS.values()
    ]


def tasks(rng: np.random.Generator) -> Iterator[Row]:
    """Several tasks: false announcements where ours is better on some and worse on others."""
    yield ["items of each task", "weights", "gain on each task", "before", "now"]
    for sizes, shares, gains in [
        ([20, 20], [1, 1], [0.3, -0.3]),
        ([20, 300], [1, 1], [0.1, -0.1]),
        ([20, 300], [10, 1], [0.0, 0.0]),
        ([20, 300], [10, 1], [-0.03, 0.3]),
        ([20] * 8, [1] * 8, [0.0] * 8),
        ([20, 60, 300], [1, 1, 1], [0.2, -0.1, -0.1]),
    ]:
        specs: Tasks = {f"t{i}": task(weight=w) for i, w in enumerate(shares)}  # type: ignore[misc]
        studies, now, before = 4000, 0, 0
        for _ in range(studies):
            pairs = [right(rng, (0.5 + g, 0.5), 0.7, n) for n, g in zip(sizes, gains, strict=True)]
            ours, theirs = (
                {f"t{i}": pair[side] for i, pair in enumerate(pairs)} for side in (0, 1)
            )
            now += chance(ours, theirs, specs) < TAIL
            before += _welch(pairs, np.array(shares) / sum(shares)) < TAIL
        yield [
            ", ".join(map(str, sizes)),
            ", ".join(map(str, shares)),
            ", ".join(f"{g:+g}" for g in gains),
            _percent(before, studies),
            _percent(now, studies),
        ]


def _welch(pairs: Sequence[Array], shares: Array) -> float:
    centre = variance = spread = 0.0
    for (ours, theirs), w in zip(pairs, shares, strict=True):
        d = ours - theirs
        n, c = len(d), d.sum() / (len(d) + 1)
        v = w * w * ((d @ d + max(np.abs(d).max(), 1e-12) ** 2) / (n + 1) - c * c) / n
        centre, variance, spread = centre + w * c, variance + v, spread + v * v / n
    return float(stdtr(variance**2 / spread, -centre / math.sqrt(variance)))


def clustered(rng: np.random.Generator) -> Iterator[Row]:
    """Items in groups: false announcements with groups ignored, and counted as one unit each."""
    yield ["items", "in groups of", "true gain", "groups ignored", "as clusters"]
    quiz: Tasks = {"t": task()}  # type: ignore[dict-item]
    for n, size, gain in [
        (400, 5, 0.0),
        (400, 20, 0.0),
        (400, 5, 0.1),
        (400, 20, 0.1),
        (2000, 20, 0.1),
    ]:
        labels = {"t": [i // size for i in range(n)]}
        studies, alone, together = 2000, 0, 0
        for _ in range(studies):
            ours, theirs = in_clusters(rng, (0.5 + gain, 0.5), size, 0.8, n)
            alone += chance({"t": ours}, {"t": theirs}, quiz) < TAIL
            together += chance({"t": ours}, {"t": theirs}, quiz, labels) < TAIL
        yield [n, size, gain, _percent(alone, studies), _percent(together, studies)]


def looks(rng: np.random.Generator) -> Iterator[Row]:
    """A study that searches on, each time with another winner, all as good as the one rival."""
    yield ["winners judged", "each at 95 %", "paid for"]
    quiz: Tasks = {"t": task()}  # type: ignore[dict-item]
    studies = 3000
    first_false = {"plain": [], "paid": []}  # type: dict[str, list[int]]
    for _ in range(studies):
        scores = right(rng, [0.5] * 21, 0.7, 400)
        p = [chance({"t": ours}, {"t": scores[0]}, quiz) for ours in scores[1:]]
        tails = [(1 - confidence_at(look)) / 2 for look in range(1, 21)]
        for name, limits in (("plain", [TAIL] * 20), ("paid", tails)):
            hits = [look for look, (a, b) in enumerate(zip(p, limits, strict=True), 1) if a < b]
            first_false[name].append(min(hits, default=99))
    for count in (1, 2, 5, 20):
        yield [
            count,
            *(_percent(sum(f <= count for f in each), studies) for each in first_false.values()),
        ]


def rivals(rng: np.random.Generator) -> Iterator[Row]:
    """Which rivals must be beaten? 400 held-out items, 266 race items, right and wrong answers.

    `before`: the best parent and the best anchor on held-out items, intervals that hold jointly;
    `now`: each of them; `race items`: the best of all rivals on the race's items alone.
    """
    yield ["rivals' accuracy", "winner's", "correlation", "before", "now", "race items"]
    studies, n, race_n = 2000, 400, 266
    equal, graded = [0.5] * 7, [0.4, 0.42, 0.45, 0.47, 0.48, 0.49, 0.5]
    one_ahead = [[0.5 - gap] * 6 + [0.5] for gap in (0.03, 0.05, 0.08)]
    for accuracies, best in [(equal, 0.55), (graded, 0.55), ([0.5] * 2, 0.55), ([0.5], 0.55)] + [
        (each, 0.5) for each in (equal, *one_ahead)
    ]:
        for shared in (0.0, 0.7, 0.9):
            hits = np.zeros(3)
            for _ in range(studies):
                held_out = right(rng, [*accuracies, best], shared, n)
                raced = right(rng, accuracies, shared, race_n).mean(1)
                hits += _announced(held_out[-1], held_out[:-1], raced)
            names = {0.5: "all .50"}.get(min(accuracies), ", ".join(f"{a:.2f}" for a in accuracies))
            label = f"{len(accuracies)}: {names}".replace("0.", ".")
            yield [label, best, shared, *(_percent(hit, studies) for hit in hits)]


def _announced(winner: Array, others: Array, raced: Array) -> Array:
    p_now = np.array([ours_now(winner, other, True) for other in others])
    p_before = np.array([student(winner, other, True) for other in others])
    parents = np.arange(len(others)) < (len(others) + 1) // 2  # the first half are parents
    groups = [np.flatnonzero(g) for g in (parents, ~parents) if g.any()]
    best = [group[others[group].mean(1).argmax()] for group in groups]
    return np.array(
        [
            all(p_before[i] < TAIL / len(groups) for i in best),
            (p_now < TAIL).all(),
            p_now[raced.argmax()] < TAIL,
        ],
        dtype=np.float64,
    )


def adversary(rng: np.random.Generator) -> Iterator[Row]:
    """The worst of many random distributions on [-1, 1] with mean 0, looked at again afresh."""
    yield ["items", "values", "their chances", "at 5 %", "at 2.5 %", "at 1 %"]
    levels = (0.05, 0.025, 0.01)
    worst_first: list[tuple[float, int, Array, Array]] = []
    tried = 0
    until = time.monotonic() + 120
    while time.monotonic() < until:
        n, k = int(rng.choice([3, 5, 10, 20, 50, 150])), int(rng.integers(2, 5))
        values = rng.uniform(-1, 1, k) * rng.choice([0.02, 0.1, 1.0], k)
        values[0] = -1.0 if rng.random() < 0.5 else values[0]
        chances = rng.dirichlet(np.full(k, rng.choice([0.3, 1.0, 3.0])))
        moved = int(rng.integers(k))
        values[moved] -= values @ chances / max(chances[moved], 1e-9)
        if abs(values[moved]) <= 1:
            tried += 1
            rates = _false(rng, n, values, chances, 3000, levels)
            worst = max(rate / level for rate, level in zip(rates, levels, strict=True))
            worst_first.append((worst, n, values, chances))
    worst_first.sort(key=lambda each: -each[0])
    for _, n, values, chances in worst_first[:6]:
        rates = _false(rng, n, values, chances, 40000, levels)
        texts = (" ".join(f"{x:+.2f}" for x in each) for each in (values, chances))
        yield [n, *texts, *(f"{100 * rate:.2f} %" for rate in rates)]
    yield [f"of {tried:,} tried", "", "", "", "", ""]


def _false(
    rng: np.random.Generator,
    n: int,
    values: Array,
    chances: Array,
    studies: int,
    levels: Sequence[float],
) -> list[float]:
    drawn, times = np.unique(rng.multinomial(n, chances, studies), axis=0, return_counts=True)
    low = np.minimum(values, 0)  # two scores in [0, 1] with these differences
    p = []
    for counts in drawn:
        ours, theirs = (np.repeat(each, counts) for each in (values - low, -low))
        p.append(ours_now(ours, theirs, True))
    return [float(times[np.array(p) < level].sum()) / studies for level in levels]


def studies(rng: np.random.Generator) -> Iterator[Row]:
    """Whole studies through race and verdict: seven rivals, and eight trials that race."""
    yield ["study", "race items", "held-out items", "improvement shown"]
    kinds = ["base", *["parent"] * 3, *["anchor"] * 3, *["trial"] * 8]
    few = ["parent", "anchor", "trial"]
    null, better = [0.5] * 15, [0.5] * 7 + [0.55] * 8
    for label, who, accuracies, shared, race_n, n, count in [
        ("all equal, correlation 0", kinds, null, 0.0, 266, 400, 400),
        ("all equal, correlation .9", kinds, null, 0.9, 266, 400, 400),
        ("all equal, 20 items", kinds, null, 0.5, 14, 20, 1000),
        ("one rival, all equal", few, [0.2, 0.5, 0.5], 0.5, 266, 400, 1500),
        ("one rival, all equal, 20 items", few, [0.01, 0.9, 0.9], 0.5, 14, 20, 1500),
        ("+5 points over one rival, correlation .7", few, [0.3, 0.5, 0.55], 0.7, 266, 400, 800),
        ("+5 points over one rival, correlation .9", few, [0.3, 0.5, 0.55], 0.9, 266, 400, 800),
        ("+5 points over seven equal rivals, .7", kinds, better, 0.7, 266, 400, 300),
        ("+5 points over seven equal rivals, .9", kinds, better, 0.9, 266, 400, 300),
        (
            "+10 points over seven equal rivals, .7",
            kinds,
            [0.5] * 7 + [0.6] * 8,
            0.7,
            266,
            400,
            300,
        ),
    ]:
        shown = sum(_study(rng, who, accuracies, shared, race_n, n) for _ in range(count))
        yield [label, race_n, n, _percent(shown, count)]


def _study(
    rng: np.random.Generator,
    kinds: Sequence[str],
    accuracies: Sequence[float],
    shared: float,
    race_n: int,
    n: int,
) -> bool:
    quiz: Tasks = {"t": task()}  # type: ignore[dict-item]
    raced, held_out = (right(rng, accuracies, shared, count) for count in (race_n, n))
    anchors = [i for i, kind in enumerate(kinds) if kind == "anchor"]
    race = Race(
        anchors[:2] + [i for i, kind in enumerate(kinds) if kind == "trial"],
        {"t": list(range(race_n))},
        quiz,
    )
    while (items := race.next_items()) is not None:
        race.observe({c: {("t", i): raced[c, i] for i in items["t"]} for c in race.alive})
    assert race.winner is not None

    def entrant(i: int) -> Entrant:
        rows = [OutcomeRow("t", j, score) for j, score in enumerate(held_out[i].tolist())]
        return Entrant(i, kinds[i], f"{kinds[i]} {i}", f"d{i}", rows, 0.0)

    others = [entrant(i) for i, kind in enumerate(kinds) if kind != "trial"]
    return verdict(entrant(race.winner), others, quiz).improvement_shown


TABLES: dict[str, Callable[[np.random.Generator], Iterator[Row]]] = {
    "one_comparison": one_comparison,
    "tasks": tasks,
    "clustered": clustered,
    "looks": looks,
    "rivals": rivals,
    "adversary": adversary,
    "studies": studies,
}


def _percent(hits: float, of: int) -> str:
    return f"{100 * hits / of:.1f} %"


def main() -> None:
    """Print the tables that are asked for, all without arguments, and keep them in result.json."""
    file = Path(__file__).with_name("result.json")
    results = json.loads(file.read_text()) if file.exists() else {}
    for seed, (name, table) in enumerate(TABLES.items()):
        if name not in (sys.argv[1:] or TABLES):
            continue
        started = time.monotonic()
        print(f"\n## {name}\n\n{' '.join((table.__doc__ or '').split())}\n", flush=True)
        rows = []
        for row in table(np.random.default_rng(seed)):
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
            if not rows:
                print("|" + "---|" * len(row))
            rows.append(row)
        results[name] = {"rows": rows, "seconds": round(time.monotonic() - started)}
    file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
