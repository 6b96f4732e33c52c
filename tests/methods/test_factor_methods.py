"""Methods that mix LoRA adapters by their factors, against the papers' identities."""

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.merge.build import build
from evomerge.methods import lora_lego, lorahub
from evomerge.recipe.recipe import Recipe
from tests.adapters import make_adapter, merged_by_peft
from tests.models import load, make_model


def pairs_of(*ranks, rows=6, columns=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(rows, r, generator=draw), torch.randn(r, columns, generator=draw))
        for r in ranks
    ]


def merged(method, pairs, **parameters):
    base = torch.linspace(-1, 1, 30).reshape(6, 5)
    models = [base + left @ right for left, right in pairs]
    return (method(base, models, factors=pairs, **parameters) - base).double()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_lorahub_multiplies_sums_of_factors():
    (b1, a1), (b2, a2) = pairs_of(3, 3)
    mixed = merged(lorahub, pairs_of(3, 3), weight=[0.7, -0.4])
    b, a = 0.7 * b1.double() - 0.4 * b2.double(), 0.7 * a1.double() - 0.4 * a2.double()
    close(mixed, b @ a)
    cross = 0.7 * -0.4 * (b1.double() @ a2.double() + b2.double() @ a1.double())
    close(mixed, 0.49 * (b1 @ a1).double() + 0.16 * (b2 @ a2).double() + cross)


def test_lorahub_is_quadratic_in_its_weight():
    pairs = pairs_of(4)
    whole = merged(lorahub, pairs, weight=1.0)
    close(merged(lorahub, pairs, weight=0.5), whole / 4)
    close(merged(lorahub, pairs, weight=-1.0), whole)
    assert not merged(lorahub, pairs, weight=0.0).any()


def test_lorahub_wants_one_rank():
    with pytest.raises(UserError, match=r"expected adapters of one rank, but got \[2, 3\]"):
        merged(lorahub, pairs_of(3, 2), weight=1.0)


def test_lego_of_as_many_ranks_as_there_are_is_the_sum():
    pairs = pairs_of(3, 2)
    close(merged(lora_lego, pairs, rank=5), sum((b @ a).double() for b, a in pairs))
    close(merged(lora_lego, pairs, rank=64), sum((b @ a).double() for b, a in pairs))


def test_lego_of_one_adapter_several_times_is_that_adapter():
    (pair,) = pairs_of(4)
    close(merged(lora_lego, [pair] * 3), (pair[0] @ pair[1]).double())
    doubled = merged(lora_lego, [pair] * 3, output_reweight=True)
    close(doubled, (pair[0] @ pair[1]).double())  # r = k
    halved = merged(lora_lego, [pair], rank=1, output_reweight=True)
    close(halved, 2.0 * merged(lora_lego, [pair], rank=1))  # sqrt(4 / 1)


def test_lego_does_not_see_the_order_of_adapters_or_ranks():
    pairs = pairs_of(4, 3, 2)
    turned = [(b.flip(1), a.flip(0)) for b, a in pairs[::-1]]
    close(merged(lora_lego, pairs, rank=3), merged(lora_lego, turned, rank=3))


def test_lego_finds_planted_clusters():
    ((left, right),) = pairs_of(2, seed=1)
    draw = torch.Generator().manual_seed(2)
    pairs = [
        (
            left + 0.01 * torch.randn(6, 2, generator=draw),
            right + 0.01 * torch.randn(2, 5, generator=draw),
        )
        for _ in range(4)
    ]
    got, planted = merged(lora_lego, pairs, rank=2), (left @ right).double()
    assert float((got - planted).norm() / planted.norm()) < 0.03


def test_legos_centre_has_the_mean_norm_of_its_ranks():
    pairs = pairs_of(2, 3)
    units = torch.cat([torch.cat([a, b.T], dim=1) for b, a in pairs]).double()
    centre = units.mean(dim=0)
    centre *= units.norm(dim=1).mean() / centre.norm()
    close(merged(lora_lego, pairs, rank=1), torch.outer(centre[5:], centre[:5]))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    base = make_model(folder / "base")
    make_adapter(folder / "one", base, seed=1, modules_to_save=["norm"])
    make_adapter(folder / "two", base, seed=2)
    make_adapter(folder / "small", base, seed=3, r=2)
    return folder


def recipe(zoo, method, names, **parameters):
    base = str(zoo / "base")
    return Recipe.from_dict(
        {
            "merge_method": method,
            "base_model": base,
            "models": [{"model": {"model": base, "adapter": str(zoo / name)}} for name in names],
            "parameters": parameters,
        }
    )


def test_peft_loads_the_same_mixed_factors(zoo, tmp_path):
    # LoraHub mixes state dicts of adapters; PEFT then multiplies them.
    from safetensors.torch import load_file, save_file

    build(recipe(zoo, "lorahub", ["one", "two"], weight=0.8), tmp_path / "out")
    one, two = (load_file(zoo / name / "adapter_model.safetensors") for name in ("one", "two"))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "adapter_config.json").write_text((zoo / "two" / "adapter_config.json").read_text())
    save_file({k: 0.8 * (one[k] + two[k]) for k in two}, mixed / "adapter_model.safetensors")
    got, start = load(tmp_path / "out"), load(zoo / "base")
    expected = merged_by_peft(zoo / "base", mixed)
    for name, tensor in got.items():
        saved = one.get(f"base_model.model.{name}")
        if saved is not None:  # whole, by the first alone: as task arithmetic
            close(tensor.double(), (start[name] + 0.8 * (saved - start[name])).double())
        else:
            close(tensor, expected[name])


def test_lego_takes_adapters_of_any_rank(zoo, tmp_path):
    build(recipe(zoo, "lora_lego", ["one", "two", "small"], rank=10), tmp_path / "out")
    got, start = load(tmp_path / "out"), load(zoo / "base")
    parts = [merged_by_peft(zoo / "base", zoo / name) for name in ("one", "two", "small")]
    name = "model.layers.1.self_attn.v_proj.weight"
    expected = start[name].double() + sum((part[name] - start[name]).double() for part in parts)
    close(got[name].double(), expected)


def test_adapters_must_stand_on_the_base(zoo):
    other = f"org/other+{zoo / 'one'}"
    with pytest.raises(UserError, match="lorahub needs adapters on its base_model org/base, but"):
        Recipe.from_dict(
            {
                "merge_method": "lorahub",
                "base_model": "org/base",
                "models": [other],
                "parameters": {"weight": 1.0},
            }
        )
    with pytest.raises(UserError, match="expected adapters of one rank"):
        build(recipe(zoo, "lorahub", ["one", "small"], weight=1.0), zoo / "out")
