from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from tests.evaluate.evaluation_bench import make_config, make_model, make_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model("llama", seed=4).save_pretrained(tmp_path)
    make_tokenizer(bos=True).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_gives_a_frozen_model_in_eval_mode_and_its_tokenizer(folder: Path) -> None:
    model, tokenizer = load_model(folder)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer("ab")["input_ids"] == [1, 4, 5]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_dtype_may_be_named(folder: Path) -> None:
    model, _ = load_model(folder, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    with pytest.raises(UserError, match="such as bfloat16, float16 or float32, but got 'bf17'"):
        load_model(folder, dtype="bf17")


def test_a_config_gives_a_model_to_write_weights_into_without_touching_the_generators(
    folder: Path,
) -> None:
    state = torch.random.get_rng_state()
    empty, tokenizer = load_model(make_config("llama"))
    assert torch.equal(state, torch.random.get_rng_state())
    assert tokenizer is None
    loaded, _ = load_model(folder)
    with torch.no_grad():
        for mine, theirs in zip(empty.parameters(), loaded.parameters(), strict=True):
            mine.copy_(theirs)
        ids = torch.tensor([[1, 5, 9, 7]])
        assert torch.equal(empty(ids).logits, loaded(ids).logits)


def test_a_folder_with_a_config_alone_gives_a_model_of_that_shape(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    model, _ = load_model(folder)
    assert model.config.hidden_size == 32


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"expected safetensors weights, .* pytorch_model\.bin"):
        load_model(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a model folder with a config\.json"):
        load_model(tmp_path)


def test_a_model_that_is_nowhere_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="cannot load the model 'no-such/model'") as refused:
        load_model("no-such/model")
    assert "\n" not in str(refused.value)


def test_the_head_multiplies_once_for_all_rows_though_its_input_is_a_slice(folder: Path) -> None:
    """Else ATen copies the head's weight for every row: 7 times the time of generating."""
    model, _ = load_model(folder)
    ids = torch.arange(4, 16).reshape(3, 4)
    with torch.profiler.profile(record_shapes=True) as profile, torch.inference_mode():
        model(ids, logits_to_keep=1)
    products = [event for event in profile.events() if event.name in ("aten::mm", "aten::bmm")]
    assert products[-1].input_shapes[0] == [3, 32]  # (rows, width), not (rows, 1, width)
