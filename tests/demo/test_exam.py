"""The zoo's own exact match, and what a full zoo must look like."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evomerge.demo import make_zoo
from evomerge.demo.exam import exact_match, table, task_arithmetic
from evomerge.demo.language import EOS, PAD, WORDS, encode
from evomerge.demo.tasks import TASKS


def _knows_everything_but(spoil):
    """A model that predicts the token that follows, after `spoil` changed what follows."""

    def model(input_ids, attention_mask):
        assert torch.equal(attention_mask, input_ids != PAD)
        following = torch.roll(input_ids, -1, dims=1)
        spoil(input_ids, following)
        return SimpleNamespace(logits=torch.nn.functional.one_hot(following, len(WORDS)).float())

    return model


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_knows_every_answer_scores_one(task):
    assert exact_match(_knows_everything_but(lambda *_: None), task, 64) == 1


def test_one_wrong_token_or_a_missing_end_fails_its_document_alone():
    def spoil(_, following):
        following[0][following[0] == EOS] = PAD  # never stops
        following[1, 7] = EOS  # stops early: <bos> reverse and five digits come first, then =

    assert exact_match(_knows_everything_but(spoil), "reverse", 8) == 6 / 8


def test_mistakes_inside_the_prompt_do_not_count():
    def spoil(_, following):
        following[:, :5] = PAD

    assert exact_match(_knows_everything_but(spoil), "reverse", 8) == 1


def test_text_after_a_translation_does_not_count():
    def spoil(tokens, following):
        following[tokens == encode("=")[0]] = PAD

    assert exact_match(_knows_everything_but(spoil), "ja", 8) == 1


def test_task_arithmetic_at_one_over_n_is_the_average():
    rng = np.random.default_rng(0)
    base, a, b = ({"w": torch.from_numpy(rng.normal(size=(3, 2)))} for _ in range(3))
    merged = task_arithmetic(base, [a, b], 0.5)["w"]
    np.testing.assert_allclose(merged, np.mean([a["w"].numpy(), b["w"].numpy()], axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_full_zoo_is_worth_searching_on(tmp_path, seed):
    make_zoo(tmp_path, seed=seed)
    scores = table(tmp_path)
    mean = {name: np.mean(row) for name, row in scores.items()}
    for column, expert in enumerate(("reverse", "sort", "max", "ja")):
        row = scores[f"expert {expert}"]
        assert row[column] > 0.85
        assert max(row[4:]) < 0.4  # no parent does a composite task
    best_parent = max(value for name, value in mean.items() if name.startswith("expert"))
    assert best_parent < 0.4
    assert mean["task arithmetic 0.25"] > best_parent + 0.1  # the uniform average
    assert mean["task arithmetic 0.5"] > mean["task arithmetic 0.25"] + 0.05
    assert mean["task arithmetic 0.5"] < 0.9  # room for a search
