"""Streamed models: logits of whole ones, each weight merged once a pass, bytes at a time."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.likelihood.attention import packing_support
from evomerge.evaluate.likelihood.batches import make_batches
from evomerge.evaluate.likelihood.likelihood import Forward
from evomerge.evaluate.model import load_model
from evomerge.evaluate.streamed.streamed import Streamed, together
from evomerge.evaluate.token_requests import Pair
from evomerge.merge.build import fill, live_digest
from evomerge.merge.parents import parents as parents_module
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.merge.streamed import StreamedMerge
from tests.architectures import MIXTURES, PLAIN, config_of
from tests.limited_device import Device
from tests.merge.merging import recipe_of
from tests.models import make_family, near, write_tokenizer

ROWS = [torch.randint(40, (2, n), generator=torch.Generator().manual_seed(n)) for n in (5, 9, 7)]


class Both:
    """A whole live model and a streamed one, which hold the same candidate."""

    def __init__(self, family: dict[str, str], dtype: str, **streaming: Any):
        recipe = recipe_of(family, "ties", out_dtype=dtype)
        parents = Parents(recipe.model_names)
        parents.stay = False
        parents.check(recipe)
        self.built, self.parents = plan(recipe, parents.checkpoints), parents
        self.whole, _ = load_model(family["base"], dtype)
        fill(self.whole, self.built, parents)
        self.model, _ = load_model(family["base"], dtype, empty=True)
        self.streamed = Streamed(self.model, **streaming)
        self.source = StreamedMerge(self.model, self.built, parents, digests=True)
        self.streamed.source = self.source


def outputs(model: Any) -> list[torch.Tensor]:
    with torch.inference_mode():
        return together(
            model, [lambda row=row: model(input_ids=row, use_cache=False).logits for row in ROWS]
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*PLAIN, *MIXTURES])
def test_a_streamed_model_computes_what_a_whole_one_does(
    name: str, dtype: str, tmp_path: Path
) -> None:
    family = family_of(name, tmp_path)
    both = Both(family, dtype)
    for _ in range(2):  # the second pass knows which part follows which
        for expected, logits in zip(outputs(both.whole), outputs(both.model), strict=True):
            torch.testing.assert_close(logits, expected)  # most to the bit
    assert both.source.digest() == live_digest(both.whole, both.built, both.parents)


def family_of(name: str, folder: Path) -> dict[str, str]:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_of(name))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder / "base")
    write_tokenizer(folder / "base")
    others = {one: near(folder / "base", folder / one, seed=i) for i, one in enumerate("ab")}
    return {"base": str(folder / "base"), **{k: str(v) for k, v in others.items()}}


def test_rows_behind_a_common_prefix_go_with_it_in_one_pass(tmp_path: Path) -> None:
    both = Both(make_family(tmp_path, layers=3), "float32")
    drawn = torch.randint(4, 40, (60, 14), generator=torch.Generator().manual_seed(1)).tolist()
    shots = tuple(4 + i % 35 for i in range(44))
    pairs = [
        Pair(("task", i), (*shots, *tail), (6 + j, 8))
        for i, tail in enumerate(drawn)
        for j in range(2)
    ]
    longest = packing_support(both.model).max_length
    assert longest == packing_support(both.whole).max_length > 0
    batches = make_batches(pairs, 2, 64, "cpu", longest)
    assert len(batches) > 2
    assert any(batch.prefix for batch in batches)
    expected = Forward(both.whole)(batches, pairs)
    made = Counter[str]()
    merge = both.source.tensors

    def counted(names: Any) -> Any:
        made.update(names)
        return merge(names)

    both.source.tensors = counted  # type: ignore[method-assign]
    assert Forward(both.model)(batches, pairs).table == pytest.approx(expected.table, abs=1e-5)
    assert set(made.values()) == {1}, "each weight is merged once for all batches and the prefix"


@pytest.mark.parametrize("ahead", [False, True])
def test_a_device_that_cannot_hold_a_candidate_scores_it(
    ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = make_family(tmp_path, layers=8)
    both = Both(family, "float32", ahead=ahead)
    device = Device(math.inf)
    merge = both.source._tensor
    monkeypatch.setattr(parents_module, "copied", device.copied)
    monkeypatch.setattr(both.source, "_tensor", lambda name: device.count(merge(name)))
    parts = [sum(t.numel() * 4 for t in part) for part in parts_of(both.whole)]
    inputs = 3 * max(p.numel() * 4 for p in both.whole.parameters())  # a base and two models
    # While one is made ahead another is there, and the one before has just gone.
    neighbours = [sum(parts[i : i + 1 + ahead]) for i in range(len(parts))]
    device.limit = max(neighbours) + inputs
    assert device.limit < sum(parts), "the whole candidate does not fit"
    expected = outputs(both.whole)
    for _ in range(2):
        for one, logits in zip(expected, outputs(both.model), strict=True):
            torch.testing.assert_close(logits, one)
    assert device.held == 0, "nothing stays"
    assert device.peak > max(parts)
    device.limit = max(parts) / 2
    with pytest.raises(torch.OutOfMemoryError):
        outputs(both.model)


def parts_of(model: Any) -> list[list[torch.Tensor]]:
    layers = [list(layer.parameters()) for layer in model.model.layers]
    inner = model.model
    return [[inner.embed_tokens.weight], *layers, [inner.norm.weight], [model.lm_head.weight]]


def test_weights_that_no_pass_has_made_are_nan_and_take_no_memory(tmp_path: Path) -> None:
    model, _ = load_model(make_family(tmp_path)["base"], empty=True)
    for parameter in model.parameters():
        assert parameter.untyped_storage().nbytes() == 4
        assert bool(parameter.isnan().all())
    assert not any(buffer.isnan().any() for buffer in model.buffers())


def test_values_that_are_not_finite_stop_a_pass_by_name(tmp_path: Path) -> None:
    both = Both(make_family(tmp_path), "float32")
    recipe = recipe_of(both_paths(both), "task_arithmetic", weight=1e7, out_dtype="float16")
    built = plan(recipe, both.parents.checkpoints)
    both.streamed.source = StreamedMerge(both.model, built, both.parents)
    for _ in range(2):  # the second time in the thread that works ahead
        with pytest.raises(UserError, match="values are not finite"):
            outputs(both.model)


def both_paths(both: Both) -> dict[str, str]:
    base, a, b = (str(checkpoint.folder) for checkpoint in both.parents.checkpoints.values())
    return {"base": base, "a": a, "b": b}
