"""A checkpoint's tensors lie in the live model where `from_pretrained` puts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging

from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.merge.build import build, fill, live_digest, live_tensors
from evomerge.merge.live_layout import parts, views
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.architectures import MIXTURES, PLAIN, WRAPPERS, config_of

EVERY = [*PLAIN, *MIXTURES, *WRAPPERS]


def make(kind: str, folder: Path, seed: int) -> None:
    """A model with weights that differ everywhere, as `save_pretrained` writes it."""
    logging.disable_progress_bar()
    config = config_of(kind)
    auto: Any = AutoModelForImageTextToText if kind in WRAPPERS else AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = auto.from_config(config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in dict.fromkeys(model.parameters()):
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    model.save_pretrained(folder)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}


@pytest.mark.parametrize("kind", EVERY)
def test_every_stored_tensor_is_a_view_of_what_transformers_loads(
    kind: str, tmp_path: Path
) -> None:
    make(kind, tmp_path, 1)
    model, _ = load_model(tmp_path)
    on_disk = stored(tmp_path)
    live = views(model, on_disk)
    assert list(live) == list(on_disk)
    for name, tensor in on_disk.items():
        assert torch.equal(live[name], tensor), name
    for tensor in live.values():
        tensor.zero_()
    assert not any(bool(weight.any()) for weight in model.parameters())  # nothing is left out


@pytest.mark.parametrize("kind", [*MIXTURES, *WRAPPERS])
def test_a_merge_in_place_is_what_transformers_loads_of_the_merge_on_disk(
    kind: str, tmp_path: Path
) -> None:
    for seed, name in enumerate(("base", "one", "two")):
        make(kind, tmp_path / name, seed)
    recipe = Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(tmp_path / "base"),
            "models": [
                {"model": str(tmp_path / "one"), "parameters": {"weight": 0.6}},
                {"model": str(tmp_path / "two"), "parameters": {"weight": 0.3}},
            ],
            "dtype": "float32",
        }
    )
    digest = build(recipe, tmp_path / "out")
    base, one, two = (stored(tmp_path / name) for name in ("base", "one", "two"))
    merged = stored(tmp_path / "out")
    assert set(merged) == set(base)
    for name, start in base.items():  # float64 reference
        moved = (0.6 * (t[name].double() - start.double()) for t in (one, two))
        expected = start.double() + next(moved) + 0.5 * next(moved)
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-5, atol=1e-6)
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    live, _ = load_model(tmp_path / "base")
    fill(live, built, parents)
    assert live_digest(live, built, parents) == digest
    loaded, _ = load_model(tmp_path / "out")
    tokens = torch.arange(4, 16)[None]
    with torch.inference_mode():
        assert torch.equal(live(input_ids=tokens).logits, loaded(input_ids=tokens).logits)


def test_a_checkpoint_of_the_base_model_alone_finds_its_places(tmp_path: Path) -> None:
    """Names without the prefix of the whole model, as old checkpoints have them."""
    make("qwen3_moe", tmp_path, 1)
    model, _ = load_model(tmp_path)
    bare = {n.removeprefix("model."): t for n, t in stored(tmp_path).items() if "lm_head" not in n}
    live = views(model, bare)
    assert len(live) == len(bare)
    assert all(torch.equal(live[name], tensor) for name, tensor in bare.items())


def test_experts_that_are_missing_or_not_in_order_are_refused(tmp_path: Path) -> None:
    make("mixtral", tmp_path, 1)
    model, _ = load_model(tmp_path)
    names = list(stored(tmp_path))
    lost = [name for name in names if "layers.0" not in name or ".experts.2." not in name]
    assert not any(".experts." in name and "layers.0" in name for name in views(model, lost))
    jumped = [name.replace(".experts.3.", ".experts.7.") for name in names]
    assert not any(".experts." in name for name in views(model, jumped))


def test_places_follow_a_model_that_moves_or_changes_its_dtype(tmp_path: Path) -> None:
    make("mixtral", tmp_path, 1)
    model, _ = load_model(tmp_path)
    name = next(name for name in stored(tmp_path) if ".experts.1." in name)
    assert views(model, [*stored(tmp_path)])[name].dtype == torch.float32
    model.to(torch.bfloat16)
    moved = views(model, [*stored(tmp_path)])[name]
    moved.fill_(2.0)
    assert moved.dtype == torch.bfloat16
    assert any(bool((weight == 2.0).any()) for weight in model.parameters())


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make("llama", tmp_path / name, 1)
    models = [{"model": str(tmp_path / n), "parameters": {"weight": 1}} for n in ("one", "two")]
    recipe = Recipe.from_dict({"merge_method": "linear", "models": models, "dtype": "float32"})
    built = plan(recipe, Parents(recipe.model_names).checkpoints)
    other = load_model(config_of("gpt_neox"))[0]
    with pytest.raises(UserError, match=r"GPTNeoXForCausalLM has no tensor model\.embed_tokens"):
        live_tensors(other, built)


def test_experts_of_one_parent_and_the_rest_of_another_are_one_line(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        make("qwen2_moe", tmp_path / name, seed)
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    document = {
        "merge_method": "slerp",
        "base_model": one,
        "models": [one, two],
        "parameters": {"t": 0},
        "blocks": [{"components": "experts", "parameters": {"t": 1}}],
        "dtype": "float32",
    }
    build(Recipe.from_dict(document), tmp_path / "out")
    result, first, second = (stored(tmp_path / name) for name in ("out", "one", "two"))
    for name, tensor in result.items():
        theirs = second if ".experts." in name else first
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)
    routers = [name for name in result if name.endswith("mlp.gate.weight")]
    shared = [name for name in result if "shared_expert" in name]
    assert len(routers) == 2
    assert len(shared) == 8
    wide = {**document, "blocks": [{"components": "mlp", "parameters": {"t": 1}}]}
    build(Recipe.from_dict(wide), tmp_path / "wide")
    whole = stored(tmp_path / "wide")
    assert all(torch.allclose(whole[name], second[name]) for name in (*routers, *shared))


def test_without_transformers_mapping_names_and_the_prefix_decide() -> None:
    class Inner(torch.nn.Module):
        base_model_prefix = "model"

        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 3)})

    live = views(Inner(), ["layer.weight", "model.layer.bias", "other.weight"])
    assert {name: tuple(t.shape) for name, t in live.items()} == {
        "layer.weight": (3, 2),
        "model.layer.bias": (3,),
    }


def test_a_part_has_its_part_of_the_gradient(tmp_path: Path) -> None:
    """Moving one stored expert's weights along its gradient changes the loss as that says."""
    make("mixtral", tmp_path, 1)
    model, _ = load_model(tmp_path)
    names = list(stored(tmp_path))
    name = next(name for name in names if "layers.1." in name and ".experts.2.w3" in name)
    model.requires_grad_(True)
    tokens = torch.arange(4, 36)[None]

    def loss() -> torch.Tensor:
        return model(input_ids=tokens, labels=tokens).loss

    loss().backward()
    gradient = parts(model, names)[name].grad
    assert gradient is not None
    assert float(gradient.norm()) > 0
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        weight = views(model, names)[name]
        weight += step
        above = float(loss())
        weight -= 2 * step
        below = float(loss())
    assert (above - below) / 2e-2 == pytest.approx(float(gradient.norm()), rel=2e-2)
