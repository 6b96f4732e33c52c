"""Writes the model card of a finished study: the merge's own, with its held-out results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.core.atomic import user_errors, write_text
from evomerge.merge.output.card import model_card
from evomerge.recipe.recipe import Recipe
from evomerge.study.journal.record import Record
from evomerge.study.statistics.verdict import Verdict


def study_card(record: Record, title: str) -> str:
    """Write the card of a study's recommended model.

    Args:
        record: Of a study that has a verdict.
        title: The card's heading.
    """
    assert record.verdict is not None
    assert record.study is not None
    assert record.winner is not None
    return model_card(
        Recipe.from_dict(record.winner.recipe),
        title,
        _results(record.verdict, record),
        {"pipeline_tag": "text-generation", "model-index": [_index(title, record)]},
    )


def write_study_card(directory: Path, record: Record) -> Path | None:
    """Put the study's card on the exported model; ``None`` where no model was exported."""
    model = record.exported and record.exported.model
    if record.verdict is None or not model or not (directory / model).is_dir():
        return None
    card = directory / model / "README.md"
    with user_errors(card):
        write_text(card, study_card(record, directory.resolve().name))
    return card


def _results(verdict: Verdict, record: Record) -> str:
    scores, pools = verdict.scores, record.pools["holdout"]
    this = verdict.winner.name
    against = dict.fromkeys(c.against for c in verdict.comparisons)
    names = ["winner", *(n for n in ("race_winner", *against) if n in scores and n != this)]
    race_winner = verdict.race_winner.name
    called = {"winner": f"this model ({this})", "race_winner": race_winner}
    heads = [called.get(name) or name for name in names]
    lines = [
        f"{verdict.sentence}\n",
        "## Results on held-out items\n",
        "Nobody searched on these items.\n",
        f"| task | metric | items | {' | '.join(heads)} |",
        f"|---|---|---|{'---|' * len(heads)}",
    ]
    for task, spec in record.tasks_of("holdout").items():
        cells = [f"{scores[name][task]:.3f}" for name in names]
        lines.append(f"| {task} | {spec['metric']} | {len(pools[task])} | {' | '.join(cells)} |")
    if verdict.comparisons:
        which = f"{race_winner}, which won the race," if "race_winner" in scores else "this model"
        lines += [
            "",
            f"| {which} against | difference | interval | won | lost |",
            "|---|---|---|---|---|",
        ]
    for c in verdict.comparisons:
        interval = f"[{c.low:+.3f}, {c.high:+.3f}]"
        counts = f"{c.wins:,} | {c.losses:,}"
        lines.append(f"| {c.against} | {c.difference:+.3f} | {interval} | {counts} |")
    lines.append(f"\n{verdict.note}".rstrip())
    if record.exported is not None and record.exported.contents is not None:
        lines.append(f"\n{record.exported.contents.sentence}".rstrip())
    if record.exported is not None and record.exported.weights_digest:
        lines.append(f"\nWeights digest: `{record.exported.weights_digest}`.")
    return "\n".join(lines) + "\n"


def _index(title: str, record: Record) -> dict[str, Any]:
    """Return the results as the Hub reads them."""
    assert record.verdict is not None
    scores = record.verdict.scores["winner"]
    return {
        "name": title,
        "results": [
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": f"{task}, held-out items", "type": task},
                "metrics": [{"type": record.tasks[task]["metric"], "value": round(value, 6)}],
            }
            for task, value in scores.items()
        ],
    }
