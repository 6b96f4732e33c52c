"""Tables and plots of finished searches: ``python summarise.py RESULTS``.

RESULTS holds a folder per zoo with searches.jsonl and anchors.json. Writes RESULTS/table.md and one
SVG per zoo. "Gap" is the share of the way from the best anchor to the best recipe that any search
by scores found (long ones included), in per cent, by held-out exact match; gradients go beyond it.
Intervals are of the mean difference over seeds that both arms ran, exact as their p values are.
"""

import itertools
import json
import statistics
import sys
from pathlib import Path

SPACES = {"global": "4 dimensions", "depth": "20 dimensions", "parts": "60 dimensions"}
SPACES |= {"component": "80 dimensions", "tensor": "224 dimensions", "mixed": "methods to choose"}
RIVAL = "mergekit-evolve"


class Zoo:
    """What was measured on one zoo."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        lines = _lines(folder / "searches.jsonl")
        self.searches = [line for line in lines if "labels" not in line]
        self.labelled = [line for line in lines if "labels" in line]
        measured = json.loads((folder / "anchors.json").read_text())
        self.anchors, self.anchors_watched = measured["held_out"], measured.get("watched", {})
        self.anchor_name = max(self.anchors, key=self.anchors.get)
        self.anchor = self.anchors[self.anchor_name]
        by_scores = [s for s in self.searches if not _by_gradients(s["arm"])]
        self.known = max(s["held_out"] for s in by_scores)
        whole = (s["budget"] for s in self.searches if s["arm"] != "adam alone")
        self.budget = statistics.mode(whole)
        self.table: dict[str, dict[str, dict[int, dict]]] = {}
        for search in self.searches:
            if search["budget"] == self.budget:
                arms = self.table.setdefault(search["space"], {})
                arms.setdefault(search["arm"], {})[search["seed"]] = search

    def gap(self, held_out: float) -> float:
        """Per cent of the way from the best anchor to the best recipe known."""
        return 100 * (held_out - self.anchor) / (self.known - self.anchor)

    def lines(self, space: str) -> list[str]:
        """One table of the report."""
        arms = self.table[space]
        rows = [
            f"| {SPACES[space]} | n | held out: median | lowest to highest | gap closed, median "
            f"| − {RIVAL}, mean [95 %] (p) | below the anchor |",
            "|---|---|---|---|---|---|---|",
        ]
        for arm in sorted(arms, key=lambda a: -_median(arms[a])):
            values = [s["held_out"] for s in arms[arm].values()]
            rows.append(
                f"| {arm} | {len(values)} | {_median(arms[arm]):.3f} "
                f"| {min(values):.3f} to {max(values):.3f} | {self.gap(_median(arms[arm])):.0f} % "
                f"| {self._against(arms, arm)} | {sum(v < self.anchor for v in values)} |"
            )
        return rows

    def _against(self, arms: dict, arm: str) -> str:
        """Mean difference to mergekit-evolve's settings over the same seeds, interval and p."""
        seeds = sorted(arms[arm].keys() & arms.get(RIVAL, {}).keys())
        if arm == RIVAL or len(seeds) < 4:
            return ""
        pairs = [arms[arm][s]["held_out"] - arms[RIVAL][s]["held_out"] for s in seeds]
        mean_interval = interval(pairs)
        between = f" [{mean_interval[0]:+.3f}, {mean_interval[1]:+.3f}]" if mean_interval else ""
        return f"{statistics.mean(pairs):+.3f}{between} ({sign_flip(pairs):.3f})"


def alone(zoo: Zoo) -> list[str]:
    """Gradients with less to spend, from .5, without anchors and without a race."""
    return [
        f"- adam alone, 224 dimensions, {budget:,} item evaluations: "
        f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f}, "
        f"{len(values)} seeds)."
        for budget, values in sorted(_alone(zoo).items())
    ]


def targets(zoos: list[Zoo]) -> list[str]:
    """Where gradients alone reach with a tenth of the cost what scores reach with all of it."""
    rows = [
        "| zoo | best anchor | best arm by scores, 11,200 | adam alone, 1,120 | as much? "
        "| adam alone, 3,360 | .90? |",
        "|---|---|---|---|---|---|---|",
    ]
    for zoo in zoos:
        arms = [
            (_median(runs), arm, space, len(runs))
            for space, named in zoo.table.items()
            for arm, runs in named.items()
            if not _by_gradients(arm)
        ]
        best, arm, space, n = max(arms)
        little, more = ([*_alone(zoo).get(budget, [])] for budget in (1120, 3360))
        if not little or not more:
            continue
        tenth, third = statistics.median(little), statistics.median(more)
        rows.append(
            f"| {zoo.name} | {zoo.anchor:.3f} | {best:.3f} ({arm}, {SPACES[space]}, {n}) "
            f"| {tenth:.3f} ({len(little)}) | {'yes' if tenth >= best else 'no'} "
            f"| {third:.3f} ({len(more)}) | {'yes' if third >= 0.9 else 'no'} |"
        )
    return rows


def few_labels(zoo: Zoo) -> list[str]:
    """What is reached where the search pool has so many items a task, raced and before."""
    groups: dict[tuple[int, str, str, int], list[dict]] = {}
    for line in zoo.labelled:
        key = (line["labels"], line["space"], line["arm"], line["budget"])
        groups.setdefault(key, []).append(line)
    if not groups:
        return []
    rows = [
        "| items a task | arm | n | item evaluations | held out: median | before the race |",
        "|---|---|---|---|---|---|",
    ]
    for (labels, space, arm, budget), lines in sorted(groups.items()):
        raced = statistics.median(x["held_out"] for x in lines)
        unraced = statistics.median(x.get("unraced", x["held_out"]) for x in lines)
        rows.append(
            f"| {labels} | {arm}, {SPACES[space]} | {len(lines)} | {budget:,} | {raced:.3f} "
            f"| {unraced:.3f} |"
        )
    return [*rows, ""]


def _by_gradients(arm: str) -> bool:
    return arm.startswith(("adam", "hybrid"))


def _alone(zoo: Zoo) -> dict[int, list[float]]:
    by_budget: dict[int, list[float]] = {}
    for search in zoo.searches:
        if search["arm"] == "adam alone":
            by_budget.setdefault(search["budget"], []).append(search["held_out"])
    return by_budget


def sign_flip(differences: list[float]) -> float:
    """Two-sided exact p: how many sign patterns give a mean at least as far from 0."""
    seen = abs(sum(differences)) - 1e-12
    patterns = itertools.product((-1, 1), repeat=len(differences))
    hits = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) >= seen for p in patterns]
    return sum(hits) / len(hits)


def interval(differences: list[float], level: float = 0.95) -> tuple[float, float] | None:
    """The means that `sign_flip` does not refuse: exact, whatever shape the differences have.

    A mean c has p = 2 (1 + how many subsets of the differences have a mean <= c) / 2^n from below,
    and the like from above (Hartigan 1969, typical values). ``None`` below 6 differences: then no
    mean has a p under 0.05.
    """
    sizes = range(1, len(differences) + 1)
    means = sorted(
        statistics.fmean(chosen)
        for size in sizes
        for chosen in itertools.combinations(differences, size)
    )
    outside = int((1 - level) / 2 * (len(means) + 1))
    return (means[outside - 1], means[-outside]) if outside else None


def plot(zoo: Zoo) -> str:
    """Every search as a dot, by arm and space, from the best anchor to the best recipe known."""
    rows = [
        (space, arm, [s["held_out"] for s in arms.values()])
        for space, named in zoo.table.items()
        for arm, arms in sorted(named.items(), key=lambda pair: -_median(pair[1]))
    ]
    low = min(min(values) for *_, values in rows) - 0.01
    high = max(zoo.known, *(max(values) for *_, values in rows)) + 0.01
    left, width, step = 300, 560, 20

    def x(value: float) -> float:
        return left + width * (value - low) / (high - low)

    height = step * (len(rows) + 3)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 20} {height}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>Held-out exact match of every search, zoo {zoo.name}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    marks = {f"best anchor {zoo.anchor:.3f}": zoo.anchor, f"best known {zoo.known:.3f}": zoo.known}
    for label, value in marks.items():
        parts.append(
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="22" y2="{height - 8}" '
            f'stroke="#888" stroke-dasharray="3 3"/><text x="{x(value):.1f}" y="15" '
            f'text-anchor="middle" fill="#555">{label}</text>'
        )
    for i, (space, arm, values) in enumerate(rows):
        y = step * (i + 2)
        colours = {"parts": "#1b6ca8", "depth": "#b8532d", "global": "#3d8b40"}
        colour = colours.get(space, "#7a4fa3")
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{arm}, {space}</text>')
        parts += [
            f'<circle cx="{x(v):.1f}" cy="{y}" r="3.5" fill="{colour}" fill-opacity="0.5"/>'
            for v in values
        ]
        middle = x(statistics.median(values))
        parts.append(
            f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{y - 7}" y2="{y + 7}" '
            f'stroke="{colour}" stroke-width="2.5"/>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def early(zoo: Zoo) -> list[str]:
    """What an arm answers after a fifth of its budget, next to mergekit-evolve's last answer.

    Each as a gain over the best anchor on the same items: answers on the way were judged on fewer.
    """
    there = zoo.anchors_watched.get(zoo.anchor_name, 0.0)
    rows = []
    for space, arms in zoo.table.items():
        if RIVAL not in arms:
            continue
        shown = {
            arm: statistics.median(s["watched"]["0.2"] for s in runs.values()) - there
            for arm, runs in arms.items()
            if arm != RIVAL
            and len(runs) >= 4
            and all("0.2" in s.get("watched", {}) for s in runs.values())
        }
        listed = ", ".join(
            f"{arm} {v:+.3f}" for arm, v in sorted(shown.items(), key=lambda p: -p[1])
        )
        if not shown:
            continue
        last = _median(arms[RIVAL]) - zoo.anchor
        rows.append(
            f"- {SPACES[space]}: {RIVAL} at the end {last:+.3f}; after a fifth of the item "
            f"evaluations, without a race: {listed}."
        )
    return rows


def main() -> None:
    results = Path(sys.argv[1])
    zoos = [Zoo(p.parent) for p in sorted(results.glob("*/anchors.json"))]
    text = ["## A tenth of the cost", "", *targets(zoos), ""]
    for zoo in zoos:
        text += [
            f"## Zoo `{zoo.name}`",
            "",
            f"Best anchor: {zoo.anchor_name}, {zoo.anchor:.3f}. "
            f"Best recipe known: {zoo.known:.3f}. {zoo.budget:,} item evaluations a search.",
            "",
        ]
        for space in SPACES:
            if space in zoo.table:
                text += [*zoo.lines(space), ""]
        text += [*(lines := alone(zoo)), *([""] if lines else [])]
        text += few_labels(zoo)
        if earlier := early(zoo):
            text += ["Gain over the best anchor, held out:", "", *earlier, ""]
        (results / f"{zoo.name}.svg").write_text(plot(zoo))
    (results / "table.md").write_text("\n".join(text))


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _median(searches: dict) -> float:
    return statistics.median(s["held_out"] for s in searches.values())


if __name__ == "__main__":
    main()
