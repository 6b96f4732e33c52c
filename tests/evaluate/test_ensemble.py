"""Several models whose next-token distribution is their mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from evomerge.core.errors import UserError
from evomerge.evaluate.ensemble import Ensemble
from evomerge.evaluate.likelihood.attention import max_packed_length
from evomerge.evaluate.outcomes import Mean
from tests.architectures import config_of

TOKENS = torch.tensor([[5, 9, 2, 7, 11, 3], [4, 4, 8, 1, 6, 2]])


def random_model(kind: str, seed: int, **changes: Any) -> Any:
    config = config_of(kind)
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        load: Any = AutoModelForCausalLM.from_config
        model = load(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def members(request: pytest.FixtureRequest) -> list[Any]:
    return [random_model(request.param, seed) for seed in (0, 1, 2)]


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_the_distribution_is_the_mean_of_the_models(members: list[Any], mean: Mean) -> None:
    with torch.inference_mode():
        ours = Ensemble(members, mean)(TOKENS).logits.double().softmax(-1)
        theirs = torch.stack([model(TOKENS).logits.double() for model in members])
    expected = theirs.softmax(-1).mean(0) if mean == "probabilities" else theirs.mean(0).softmax(-1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


def test_one_model_twice_is_that_model(members: list[Any]) -> None:
    with torch.inference_mode():
        ours = Ensemble([members[0], members[0]], "probabilities")(TOKENS).logits
        torch.testing.assert_close(ours, members[0](TOKENS).logits.log_softmax(-1))


@pytest.mark.parametrize("with_kinds", [False, True])
def test_token_by_token_with_a_cache_equals_the_whole(members: list[Any], with_kinds: bool) -> None:
    together = Ensemble(members, "probabilities")
    cache = DynamicCache(config=together.config) if with_kinds else DynamicCache()
    with torch.inference_mode():
        whole = together(TOKENS).logits
        first = together(TOKENS[:, :3], past_key_values=cache, use_cache=True).logits
        parts = [first[:, -1]]
        for i in range(3, 6):
            step = together(TOKENS[:, i : i + 1], past_key_values=cache, use_cache=True).logits
            parts.append(step[:, -1])
    torch.testing.assert_close(torch.stack(parts, 1), whole[:, 2:], rtol=1e-4, atol=1e-5)


def test_rows_are_packed_where_the_models_take_it(members: list[Any]) -> None:
    assert max_packed_length(Ensemble(members, "logits")) == max_packed_length(members[0])


def test_what_makes_no_ensemble_is_refused() -> None:
    small, large = random_model("llama", 0), random_model("llama", 0, vocab_size=48)
    with pytest.raises(UserError, match="two or more models, but got 1"):
        Ensemble([small], "logits")
    with pytest.raises(UserError, match="one vocabulary"):
        Ensemble([small, large], "logits")
