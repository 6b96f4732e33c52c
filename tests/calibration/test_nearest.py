"""The nearest models: by likelihood, by text, by gradients; and the recipe that averages them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from evomerge.calibration.nearest import by_fisher, by_likelihood, by_text, likelihoods, posterior
from evomerge.calibration.rows import Row
from evomerge.cli import main
from evomerge.core import yaml_file
from evomerge.merge.output.extract_lora import extract_lora
from evomerge.merge.parents.nested import open_parents
from evomerge.recipe.rows import Calibration, Data
from tests.models import VOCABULARY, make_family

WORDS = VOCABULARY[4:]


def rows(file: Path, words: list[str], seed: int, count: int = 80) -> Data:
    draw = np.random.default_rng(seed)
    texts = [" ".join(draw.choice(words, 8)) for _ in range(count)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    _, document = Data.kind_of(str(file), "rows")
    return Data(**document)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_family(tmp_path_factory.mktemp("nearest"), names=("a", "b", "c"), scale=0.3)


def test_the_posterior_is_worked_out_row_by_row() -> None:
    """Two models, two rows: p = .8 and .2, then .5 and .25, by hand."""
    first = 0.7 * 0.5 + 0.3 * 0.8  # .59, since the prior is equal
    joint = 0.5 * first, 0.25 * (1 - first)
    by_hand = 0.7 * first + 0.3 * joint[0] / sum(joint)
    weights = posterior(np.log([[0.8, 0.2], [0.5, 0.25]]))
    assert weights == pytest.approx([by_hand, 1 - by_hand])


def test_equal_likelihoods_leave_the_prior_and_weights_sum_to_one() -> None:
    assert posterior(np.full((5, 3), -2000.0), [0.2, 0.3, 0.5]) == pytest.approx([0.2, 0.3, 0.5])
    draw = np.random.default_rng(0).normal(size=(50, 4)) * 1000
    assert math.fsum(posterior(draw)) == pytest.approx(1.0)


def test_likelihoods_are_transformers_own_loss_times_the_tokens(family: dict[str, str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(family["a"]).eval()
    three = [Row(1, (1, 5, 6, 7), 1), Row(2, (1, 9, 8), 2), Row(3, (1, 7, 5, 4), 1)]
    scored = likelihoods(model, three)
    for row, value in zip(three, scored, strict=True):
        labels = torch.tensor([[-100] * row.first + list(row.tokens[row.first :])])
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([row.tokens]), labels=labels).loss
        assert value == pytest.approx(-float(loss) * (len(row.tokens) - row.first), rel=1e-5)


def test_rows_that_a_model_wrote_choose_it(family: dict[str, str], tmp_path: Path) -> None:
    models = [family[name] for name in "abc"]
    writer = AutoModelForCausalLM.from_pretrained(family["b"]).eval()
    torch.manual_seed(0)
    written = writer.generate(
        torch.ones((12, 1), dtype=torch.long),
        do_sample=True,
        max_new_tokens=16,
        min_new_tokens=16,
        suppress_tokens=[0, 1, 2, 3],
        pad_token_id=0,
    )
    file = tmp_path / "rows.jsonl"
    texts = [" ".join(VOCABULARY[token] for token in one[1:]) for one in written.tolist()]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    _, document = Data.kind_of(str(file), "rows")
    weights = by_likelihood(models, Data(**document), Calibration(rows=100), open_parents(models))
    assert weights[1] == max(weights)
    assert math.fsum(weights) == pytest.approx(1.0)


@pytest.mark.parametrize("look", [by_text, by_fisher])
def test_rows_of_a_models_own_are_nearest_to_that_model(
    family: dict[str, str], tmp_path: Path, look: object
) -> None:
    parts = [WORDS[:12], WORDS[12:24], WORDS[24:]]
    files = [rows(tmp_path / f"{i}.jsonl", part, i) for i, part in enumerate(parts)]
    base, calibration = family["base"], Calibration(rows=80)
    same = look(base, files, files[1], calibration, open_parents([base]))  # type: ignore[operator]
    assert same[1] == pytest.approx(1.0)
    fresh = rows(tmp_path / "new.jsonl", parts[2], 9)
    scores = look(base, files, fresh, calibration, open_parents([base]))  # type: ignore[operator]
    assert max(scores) == scores[2] < 1
    assert all(-1 <= score <= 1 for score in scores)


def test_the_command_prints_a_recipe_of_the_nearest_that_builds(
    family: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [WORDS[:12], WORDS[12:24], WORDS[24:]]
    files = [rows(tmp_path / f"{i}.jsonl", part, i).file for i, part in enumerate(parts)]
    target = rows(tmp_path / "new.jsonl", parts[0], 9).file
    models = [family[name] for name in "abc"]
    words = ["nearest", target, *models, "--by", "text", "--base", family["base"], "--k", "2"]
    assert main([*words, "--data", *files, "--out-dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    recipe = yaml_file.parse(printed, "stdout")
    assert recipe["models"][0]["model"] == family["a"]
    assert [entry["parameters"]["weight"] for entry in recipe["models"]] == [0.5, 0.5]
    assert printed.count("(left out)") == 1
    (tmp_path / "recipe.yaml").write_text(printed)
    assert main(["build", str(tmp_path / "recipe.yaml"), str(tmp_path / "merged")]) == 0


def test_adapters_are_looked_at_on_their_base(
    family: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = []
    for name in "ab":
        extract_lora(family[name], family["base"], tmp_path / name, 4)
        adapters.append(str(tmp_path / name))
    target = rows(tmp_path / "new.jsonl", WORDS, 3).file
    assert main(["nearest", target, *adapters]) == 2
    assert "is an adapter: name its model, --base MODEL" in capsys.readouterr().err
    assert main(["nearest", target, *adapters, "--base", family["base"]]) == 0
    recipe = yaml_file.parse(capsys.readouterr().out, "stdout")
    assert all("+" in entry["model"] or "adapter" in entry for entry in recipe["models"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--by", "text"], "--by text needs --base, and --data"),
        (["--data", "x.jsonl"], "cannot be read"),
    ],
)
def test_a_look_without_what_it_needs_is_refused(
    family: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    target = rows(tmp_path / "new.jsonl", WORDS, 3).file
    assert main(["nearest", target, family["a"], family["b"], *more]) == 2
    assert message in capsys.readouterr().err
    assert main(["nearest", target, family["a"], family["a"]]) == 2
    assert "each model once" in capsys.readouterr().err
