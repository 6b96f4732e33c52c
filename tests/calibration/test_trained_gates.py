"""Gates learn from rows what they are for, from nothing else, and are made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.calibration.gates import gates, states_of, untrained
from evomerge.calibration.rows import Row
from evomerge.calibration.statistics import Statistics
from evomerge.checkpoint.loaded.config import resolve_config
from evomerge.evaluate.model import load_model
from evomerge.merge.build import fill
from evomerge.merge.parents.nested import open_parents
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.models import make_family

ROWS = {  # two halves of the vocabulary
    "a": [Row(i, (1, 5 + i % 4, 9, 7 + i % 3, 6), 1 + i % 3) for i in range(12)],
    "b": [Row(i, (1, 25 + i % 4, 30, 28 + i % 3), 1 + i % 2) for i in range(12)],
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("family"), scale=0.3)


def recipe_of(family: dict[str, str], method: str, **parameters: Any) -> Recipe:
    models = [{"model": family[name]} for name in "ab"]
    document = {"merge_method": method, "base_model": family["base"], "models": models}
    return Recipe.from_dict({**document, "parameters": {"rank": 8, **parameters}})


def learned(recipe: Recipe, **rows: list[Row]) -> dict[str, torch.Tensor]:
    parents = open_parents(recipe.model_names)
    return gates(recipe, parents, list({**ROWS, **rows}.values()))


def test_a_router_tells_whose_prefix_it_reads(family: dict[str, str]) -> None:
    """By means of the shared model's last states, summed here by hand from transformers' own."""
    made = learned(recipe_of(family, "twin_merging"))
    base, _ = load_model(family["base"])
    for number, rows in enumerate(ROWS.values()):
        for row in rows:
            with torch.inference_mode():
                tokens = torch.tensor([row.tokens[:3]])
                states = base(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0]
            mean = states.double().numpy().mean(axis=0)
            weight, bias = (
                made[f"router.last.{one}"].double().numpy() for one in ("weight", "bias")
            )
            assert np.argmax(weight @ mean + bias) == number


def test_prompts_end_where_their_answers_begin(family: dict[str, str]) -> None:
    base, _ = load_model(family["base"])
    row = Row(1, (1, 4, 9, 12, 7), 2)
    with torch.inference_mode():
        states = base(input_ids=torch.tensor([row.tokens]), output_hidden_states=True)
    last = states.hidden_states[-1][0]
    torch.testing.assert_close(states_of(base, [row], positions=1), last[:2].mean(0)[None])
    evenly = states_of(base, [row], positions=2)
    torch.testing.assert_close(evenly, torch.stack([last[0], last[:4].mean(0)]))


@pytest.mark.parametrize(("method", "loss"), [("wemoe", "entropy"), ("mole", "answers")])
def test_gates_of_layers_lower_their_loss(family: dict[str, str], method: str, loss: str) -> None:
    before, after = (
        _loss(recipe_of(family, method, steps=steps, rate=0.05, loss=loss), loss)
        for steps in (1, 60)
    )
    assert after < 0.9 * before


def _loss(recipe: Recipe, loss: str) -> float:
    """The mean loss of all rows under a recipe's gates, by transformers' own cross entropy."""
    parents = open_parents(recipe.model_names)
    made = gates(recipe, parents, list(ROWS.values()))

    class Given:
        def gates(self, *_: Any) -> Any:
            return made.__getitem__

    parents.provider = Given()  # type: ignore[assignment]
    planned = plan(recipe, parents.checkpoints)
    model, _ = load_model(resolve_config(planned.config))
    fill(model, planned, parents)
    losses = []
    for row in [*ROWS["a"], *ROWS["b"]]:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([row.tokens[:-1]])).logits[0, row.first - 1 :]
        if loss == "entropy":
            logs = logits.log_softmax(-1)
            losses.append(float(-(logs.exp() * logs).sum(-1).mean()))
        else:
            right = torch.tensor(row.tokens[row.first :])
            losses.append(float(torch.nn.functional.cross_entropy(logits, right)))
    return sum(losses) / len(losses)


def test_what_gates_learn_depends_on_the_rows_and_settings_alone(family: dict[str, str]) -> None:
    recipe = recipe_of(family, "mole", steps=4)
    first, again = (learned(recipe) for _ in range(2))
    other = learned(recipe, b=ROWS["b"][:5])
    scaled = learned(recipe_of(family, "mole", steps=4, scale=0.3))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, scaled[name])
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_kept_gates_are_known_by_content(family: dict[str, str], tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(
            json.dumps({"text": f"w{ord(name) - 90} w9"}) + "\n"
        )

    def document(**parameters: Any) -> dict[str, Any]:
        models = [{"model": family[n], "data": str(tmp_path / f"{n}.jsonl")} for n in "ab"]
        plain = recipe_of(family, "twin_merging", **parameters).to_dict()
        return {**plain, "models": models}

    folder = tmp_path / "kept"

    def stored(written: dict[str, Any]) -> str:
        recipe = Recipe.from_dict(written)
        parents: Parents = open_parents(recipe.model_names)
        return Statistics(parents, folder).stored_gates(recipe, parents).digest

    assert stored(document()) == stored(document(scale=0.5)) == stored(document(rank=4))
    assert len(list(folder.iterdir())) == 1
    assert stored(document(steps=7)) != stored(document())
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "w30 w31"}) + "\n")
    before = {file.name for file in folder.iterdir()}
    stored(document())
    assert len({file.name for file in folder.iterdir()} - before) == 1
    assert "data" not in json.dumps(untrained(Recipe.from_dict(document()))["models"])
