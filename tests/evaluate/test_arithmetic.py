"""A model in bfloat16 is warned of where its processor takes several times as long for it."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from evomerge.evaluate import arithmetic

LARGE = 330_000  # tokens, of 64 numbers each: 21 million


def model(vocabulary: int, dtype: torch.dtype) -> GPT2LMHeadModel:
    with torch.device("meta"):
        made = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=64, n_layer=1, n_head=2))
    return made.to(dtype).to_empty(device="cpu")


@pytest.mark.parametrize(
    ("vocabulary", "dtype", "slower", "warned"),
    [
        (LARGE, torch.bfloat16, 6.6, True),
        (LARGE, torch.float16, 6.6, True),
        (LARGE, torch.bfloat16, 1.2, False),
        (LARGE, torch.float32, 6.6, False),
        (100, torch.bfloat16, 6.6, False),
    ],
)
def test_slow_arithmetic_is_warned_of_with_its_remedy(
    vocabulary: int,
    dtype: torch.dtype,
    slower: float,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        arithmetic, "_seconds", lambda dtype: 1.0 if dtype == torch.float32 else slower
    )
    warnings = arithmetic.slow_arithmetic(model(vocabulary, dtype))
    assert len(warnings) == warned
    for text in warnings:
        assert "7 times as long in" in text
        assert "set evaluate.dtype: float32" in text


def test_products_take_time() -> None:
    assert 0 < arithmetic._seconds(torch.float32) < 1
