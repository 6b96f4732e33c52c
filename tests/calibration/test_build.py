"""Recipes over models with rows build, the same from a cache or anew, and mistakes are a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evomerge
from evomerge.calibration.gram import grams
from evomerge.calibration.rows import Row
from evomerge.calibration.statistics import Statistics
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_model
from evomerge.merge.build import tensors
from evomerge.merge.parents.memo import Memo
from evomerge.merge.parents.nested import open_parents
from evomerge.merge.plan.plan import plan
from evomerge.recipe.recipe import Recipe
from tests.models import load, make_family

TEXTS = {"a": ["w1 w2 w3 w1", "w5 w5 w9"], "b": ["w30 w8 w7", "w11 w12 w13 w14 w15"]}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("family")
    made = make_family(folder, "llama", scale=0.2)
    for name, texts in TEXTS.items():
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return {**made, "folder": str(folder)}


def document(family: dict[str, str], method: str = "regmean", **parameters: Any) -> dict[str, Any]:
    models = [{"model": family[n], "data": f"{family['folder']}/{n}.jsonl"} for n in "ab"]
    base = family["base"]
    return {"merge_method": method, "base_model": base, "models": models, "parameters": parameters}


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "statistics").iterdir())


def test_a_regmean_build_is_the_formula_on_the_inputs_of_each_models_rows(
    family: dict[str, str], tmp_path: Path
) -> None:
    recipe = Recipe.from_dict(document(family, shrink=0.8, ridge=0.0, **{"lambda": 1.4}))
    evomerge.build(recipe, tmp_path / "out")
    merged, base = load(tmp_path / "out"), load(family["base"])
    name = "model.layers.1.mlp.down_proj.weight"
    left, right = np.zeros((24, 24)), np.zeros((24, 16))
    for model in "ab":
        live, tokenizer = load_model(family[model], "float32")
        rows = [
            Row(i, tuple(tokenizer(text)["input_ids"]), 1) for i, text in enumerate(TEXTS[model])
        ]
        matrices: dict[str, torch.Tensor] = {}
        grams(live, list(base), rows, matrices.update)
        g = matrices[name].double().numpy()
        g = 0.8 * g + 0.2 * np.diag(np.diag(g))
        left += g
        right += g @ load(family[model])[name].double().numpy().T
    solved = np.linalg.solve(left, right).T
    wanted = base[name].double().numpy() + 1.4 * (solved - base[name].double().numpy())
    np.testing.assert_allclose(merged[name].numpy(), wanted, rtol=1e-3, atol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "file: a.jsonl" in card  # and no folder of this machine
    assert family["folder"] not in card
    embedding = "model.embed_tokens.weight"
    mean = (load(family["a"])[embedding] + load(family["b"])[embedding]) / 2
    torch.testing.assert_close(merged[embedding], base[embedding] + 1.4 * (mean - base[embedding]))


@pytest.mark.parametrize("method", ["regmean", "fisher", "ubgm"])
def test_a_build_repeats_from_the_cache_and_anew_and_wherever_the_rows_lie(
    method: str, family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.from_dict(document(family, method))
    first = evomerge.build(recipe, tmp_path / "first")
    assert len(kept(tmp_path)) == 2
    for file in kept(tmp_path):
        file.touch()
    assert evomerge.build(recipe, tmp_path / "second") == first
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for entry in (written := recipe.to_dict())["models"]:
        name = Path(entry["data"]["file"]).name
        (folder / name).write_bytes(Path(entry["data"]["file"]).read_bytes())
        entry["data"]["file"] = name
    (folder / "recipe.yaml").write_text(json.dumps(written))
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path / "another"))
    assert evomerge.build(folder / "recipe.yaml", tmp_path / "third") == first


def test_a_damaged_statistic_is_made_again_and_never_used(
    family: dict[str, str], tmp_path: Path
) -> None:
    recipe = Recipe.from_dict(document(family))
    digest = evomerge.build(recipe, tmp_path / "out")
    first, second = kept(tmp_path)
    (part,) = first.glob("part-*.safetensors")
    content = bytearray(part.read_bytes())
    content[-7] ^= 1
    part.write_bytes(content)
    index = second / "index.json"
    index.write_text(index.read_text().replace("q_proj", "k_proj", 1))
    assert evomerge.build(recipe, tmp_path / "again") == digest
    assert bytes(content) != part.read_bytes()
    (part,) = second.glob("part-*.safetensors")
    part.write_bytes(part.read_bytes()[:100])
    first.joinpath("index.json").unlink()
    assert evomerge.build(recipe, tmp_path / "once more") == digest


def test_an_adapter_runs_on_its_base_and_a_merge_of_merges_holds_the_statistics(
    family: dict[str, str], tmp_path: Path
) -> None:
    from tests.adapters import make_adapter

    adapter = make_adapter(tmp_path / "adapter", Path(family["base"]))
    inner = document(family)
    inner["models"][0]["model"] = f"{family['base']}+{adapter}"
    outer = {
        "merges": {"fit": inner},
        "merge_method": "linear",
        "models": ["fit", family["b"]],
        "parameters": {"weight": 0.5},
    }
    evomerge.build(Recipe.from_dict(outer), tmp_path / "out")
    evomerge.build(Recipe.from_dict(inner), tmp_path / "inner")
    mixed, fit, other = load(tmp_path / "out"), load(tmp_path / "inner"), load(family["b"])
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, (fit[name] + other[name]) / 2, rtol=1e-4, atol=1e-6)


def test_a_model_without_rows_is_named_with_the_remedy(
    family: dict[str, str], tmp_path: Path
) -> None:
    without = document(family)
    del without["models"][1]["data"]
    with pytest.raises(UserError, match=r"gram needs rows of .*/b: add `data: FILE`"):
        evomerge.build(Recipe.from_dict(without), tmp_path / "out")
    from evomerge.merge.build import build

    with pytest.raises(UserError, match=r"call evomerge\.build"):
        build(Recipe.from_dict(document(family)), tmp_path / "out")
    inner = {"merge_method": "linear", "models": [family["a"]], "parameters": {"weight": 1}}
    nested = document(family)
    nested["merges"] = {"soup": inner}
    nested["models"][0]["model"] = "soup"
    with pytest.raises(UserError, match="soup is a merge within this recipe"):
        evomerge.build(Recipe.from_dict(nested), tmp_path / "out")


def test_experts_that_lie_in_one_tensor_are_refused_by_regmean_and_taken_by_fisher(
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    from tests.architectures import config_of
    from tests.models import near, write_tokenizer

    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config_of("granitemoe")).save_pretrained(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    made = {"folder": str(tmp_path), "base": str(tmp_path / "base")}
    for seed, name in enumerate("ab"):
        made[name] = str(near(tmp_path / "base", tmp_path / name, seed=seed))
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": TEXTS[name][0]}) + "\n")
    with pytest.raises(UserError, match="holds several experts"):
        evomerge.build(Recipe.from_dict(document(made)), tmp_path / "out")
    whole = document(made, "fisher")
    evomerge.build(Recipe.from_dict(whole), tmp_path / "out")
    blocks = [{"components": ["experts"], "merge_method": "linear", "parameters": {"weight": 1}}]
    evomerge.build(Recipe.from_dict({**document(made), "blocks": blocks}), tmp_path / "regmean")


def test_candidates_are_the_same_to_the_bit_whatever_part_of_their_products_is_recalled(
    family: dict[str, str],
) -> None:
    def merged(memo: Memo | None, draw: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        parents = open_parents([family[name] for name in ("base", "a", "b")])
        parents.provider, parents.memo = Statistics(parents), memo
        recipes = [Recipe.from_dict(document(family, **parameters)) for parameters in draw]
        made: list[dict[str, torch.Tensor]] = []
        for recipe in recipes:
            for entry, weight in zip(recipe.models, (1.0, len(made) + 1.0), strict=True):
                entry.parameters["weight"] = weight  # type: ignore[index]
            made.append(dict(tensors(plan(recipe, parents.checkpoints), parents)))
        return made

    points = [(0.9, 1.0), (0.9, 1.5), (0.8, 1.2), (0.7, 1.1), (0.95, 0.9)]
    draw = [{"shrink": shrink, "lambda": scale} for shrink, scale in points]
    anew = merged(None, draw)
    whole, part = Memo(1 << 24), Memo(6000)
    for memo in (whole, part):
        for one, other in zip(anew, merged(memo, draw), strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)
    assert 0 < part.size <= part.budget < whole.size
