"""Adapters of fused experts against PEFT's own merge_and_unload."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.recipe.recipe import Recipe
from tests.adapters import make_adapter, merged_by_peft
from tests.architectures import MIXTURES

EXPERTS = ["experts.down_proj", "experts.gate_up_proj"]
KINDS = {
    "mixtral": EXPERTS,
    "qwen2_moe": EXPERTS,
    "deepseek_v3": EXPERTS[:1],
    "gpt_oss": EXPERTS,  # stored fused, and as (experts, in, out)
    "llama4_text": ["gate_up_proj"],
}


def make_base(folder: Path, kind: str) -> Path:
    logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(MIXTURES[kind]())
        for parameter in model.parameters():
            parameter.data = 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_fused_experts_are_merged_as_by_peft(kind, tmp_path):
    base = make_base(tmp_path / "base", kind)
    settings = {"target_modules": ["q_proj"], "target_parameters": KINDS[kind], "r": 3}
    if kind == "deepseek_v3":
        settings["target_modules"] = ["o_proj"]
    adapter = make_adapter(tmp_path / "adapter", base, **settings)
    passed = {"merge_method": "passthrough", "models": [f"{base}+{adapter}"]}
    build(Recipe.from_dict(passed), tmp_path / "out")
    expected = merged_by_peft(base, adapter)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6, msg=name)
    for target in KINDS[kind]:
        names = [name for name in merged if name.endswith(target)]
        assert names
        assert not any(torch.equal(merged[name], before[name]) for name in names)


def test_an_experts_change_is_a_product_of_its_own_factors(tmp_path):
    base = make_base(tmp_path / "base", "mixtral")
    adapter = make_adapter(tmp_path / "adapter", base, target_parameters=EXPERTS, r=3)
    model, plain = open_model(f"{base}+{adapter}"), open_model(base)
    names = [name for name in plain.tensors if ".experts." in name]
    assert len(names) == 2 * 4 * 3
    for name in names:
        (factors,) = model.factors(name)
        assert factors.right.shape[0] == 3
        expected = plain.tensor(name) + factors.left @ factors.right
        torch.testing.assert_close(model.tensor(name), expected, rtol=1e-6, atol=1e-6)


def test_experts_of_another_count_are_refused(tmp_path):
    base = make_base(tmp_path / "base", "mixtral")
    adapter = make_adapter(tmp_path / "adapter", base, target_parameters=EXPERTS, r=3)
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "r": 5}))
    with pytest.raises(UserError, match=r"gate_up_proj: .* says rank 5, but its factors have 3"):
        open_model(f"{base}+{adapter}")
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_parameters": ["no"]}))
    with pytest.raises(UserError):
        open_model(f"{base}+{adapter}")
