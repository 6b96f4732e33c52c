"""Squared gradients: worked by hand for one layer, per example by another way, and drawn labels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from evomerge.calibration.fisher import squares
from evomerge.calibration.rows import Row
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from tests.models import load, make_model

ROWS = [Row(1, (1, 5, 9, 12), 1), Row(2, (1, 30, 2, 9), 2), Row(3, (4, 21, 33, 8), 3)]


class OneLayer(torch.nn.Module):
    """logits = W x, where x is a fixed vector for each token: a softmax regression."""

    def __init__(self, weight: Tensor, inputs: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.inputs = inputs
        self.device = torch.device("cpu")

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        del use_cache
        return SimpleNamespace(logits=self.inputs[input_ids] @ self.weight.T)


WEIGHT = torch.tensor([[0.5, -1.0], [0.2, 0.3], [-0.4, 0.8]])
INPUTS = torch.tensor([[1.0, 2.0], [0.5, -1.0], [-0.3, 0.7]])


def probabilities(token: int) -> Tensor:
    return (INPUTS[token].double() @ WEIGHT.double().T).softmax(0)


def test_of_one_layer_it_is_the_square_of_p_minus_y_times_x() -> None:
    """d(-log p_y)/dW = (p - e_y) x^T."""
    model = OneLayer(WEIGHT.clone(), INPUTS)
    given = squares(model, ["weight"], [Row(1, (0, 2), 1), Row(2, (1, 0), 1)], "given", 0)["weight"]
    wanted = torch.zeros(3, 2, dtype=torch.float64)
    for token, label in ((0, 2), (1, 0)):
        error = probabilities(token) - torch.eye(3, dtype=torch.float64)[label]
        wanted += torch.outer(error, INPUTS[token].double()) ** 2 / 2
    torch.testing.assert_close(given.double(), wanted, rtol=1e-5, atol=1e-8)


def test_of_a_row_the_mean_over_its_tokens_is_squared() -> None:
    """The gradient of the mean over two answers, then the square; the prompt counts for nothing."""
    given = squares(
        OneLayer(WEIGHT.clone(), INPUTS), ["weight"], [Row(1, (0, 1, 2), 1)], "given", 0
    )
    behind = squares(
        OneLayer(WEIGHT.clone(), INPUTS), ["weight"], [Row(1, (2, 0, 1, 2), 2)], "given", 0
    )
    gradient = torch.zeros(3, 2, dtype=torch.float64)
    for token, label in ((0, 1), (1, 2)):
        error = probabilities(token) - torch.eye(3, dtype=torch.float64)[label]
        gradient += torch.outer(error, INPUTS[token].double()) / 2
    torch.testing.assert_close(given["weight"].double(), gradient**2, rtol=1e-5, atol=1e-8)
    assert torch.equal(given["weight"], behind["weight"])


def test_drawn_labels_give_the_fisher_information_in_expectation() -> None:
    """F = sum_y p_y (e_y - p)^2 x^2, the diagonal of sum_y p_y (e_y - p)(e_y - p)^T (x) x x^T."""
    rows = [Row(number, (0, 0), 1) for number in range(1, 4001)]
    model = OneLayer(WEIGHT.clone(), INPUTS)
    given = squares(model, ["weight"], rows, "sampled", 7)["weight"].double()
    p, x = probabilities(0), INPUTS[0].double()
    wanted = torch.outer(p * (1 - p), x**2)
    torch.testing.assert_close(given, wanted, rtol=0.08, atol=0.0)  # four standard errors
    again = squares(model, ["weight"], rows[:50], "sampled", 7)["weight"]
    other = squares(model, ["weight"], rows[:50], "sampled", 8)["weight"]
    assert torch.equal(again, squares(model, ["weight"], rows[:50], "sampled", 7)["weight"])
    assert not torch.equal(again, other)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_one_row_after_the_other_equals_all_of_them_at_once_by_vmap(
    kind: str, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "m", kind)
    model, _ = load_model(folder, "float32")
    model.set_attn_implementation("eager")
    model.config.pad_token_id = None  # GPT-2 looks for padding, which vmap cannot
    rows = [Row(1, (1, 5, 9, 12), 1), Row(2, (1, 30, 2, 9), 1), Row(3, (4, 21, 33, 8), 1)]
    given = squares(model, list(load(folder)), rows, "given", 0)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
        arguments = {"input_ids": tokens[None, :-1], "use_cache": False}
        logits = functional_call(model, parameters, (), arguments).logits[0]
        return torch.nn.functional.cross_entropy(logits, tokens[1:])

    tokens = torch.tensor([row.tokens for row in rows])
    per_row = vmap(grad(loss), in_dims=(None, 0))(weights, tokens)
    for name, gradients in per_row.items():
        if name in given:
            wanted = gradients.square().mean(0)
            torch.testing.assert_close(given[name], wanted, rtol=1e-3, atol=1e-9)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_it_is_not_the_square_of_a_batchs_gradient(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    model, _ = load_model(folder, "float32")
    names = list(load(folder))
    one, two, both = (
        squares(model, names, rows, "given", 0)["lm_head.weight"]
        for rows in ([ROWS[0]], [ROWS[1]], ROWS[:2])
    )
    torch.testing.assert_close(both, (one + two) / 2)


def test_a_loss_that_is_not_finite_is_named_by_its_row() -> None:
    model = OneLayer(torch.full((3, 2), 1e30), INPUTS * 1e30)
    with pytest.raises(UserError, match="row 4: the model's loss on it is"):
        squares(model, ["weight"], [Row(4, (0, 2), 1)], "given", 0)
