"""What every registered method must do, driven by what it declares; no method is named here."""

import random as python_random

import numpy as np
import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.methods import CounterRandom, registered

SHAPES = [(), (1,), (7,), (4, 9), (2, 3, 5), (0,), (0, 4), (4, 0)]
SEEDS = range(4)
methods = pytest.mark.parametrize("method", registered(), ids=lambda method: method.name)


def model_count(method, wanted=3):
    return max(method.min_models, min(wanted, method.max_models or wanted))


def setting(parameter, draw):
    if parameter.kind in ("bool", "choice"):
        return draw.choice(parameter.choices)
    if parameter.kind == "int":
        return draw.randint(int(parameter.low), int(parameter.high))
    return draw.uniform(parameter.low, parameter.high)


def settings(method, n_models, seed, only_required=False):
    """Random valid values for the parameters of a method."""
    draw = python_random.Random(f"{method.name} {seed}")
    values = {}
    for parameter in method.parameters:
        if only_required and not parameter.required:
            continue
        if parameter.per_model:
            values[parameter.name] = [setting(parameter, draw) for _ in range(n_models)]
        else:
            values[parameter.name] = setting(parameter, draw)
    return values


def tensors(shape, n_models, seed, dtype=torch.float32):
    draw = np.random.default_rng(seed)
    base = np.asarray(draw.normal(size=shape))
    models = [np.asarray(base + 0.1 * draw.normal(size=shape)) for _ in range(n_models)]
    return torch.from_numpy(base).to(dtype), [torch.from_numpy(m).to(dtype) for m in models]


def chance():
    return CounterRandom(seed=5, name="a.weight")


@methods
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_result_is_finite_new_and_shaped_like_the_inputs_which_stay(method, shape, seed):
    n_models = model_count(method)
    base, models = tensors(shape, n_models, seed)
    before = [tensor.clone() for tensor in (base, *models)]
    parameters = settings(method, n_models, seed)
    merged = method.apply(base, models, parameters, chance())
    assert merged.shape == shape
    assert merged.dtype == torch.float32
    assert bool(torch.isfinite(merged).all())
    for tensor, copy in zip((base, *models), before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor.numel() == 0 or merged.data_ptr() != tensor.data_ptr()


@methods
@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_models_does_not_matter_if_their_parameters_move_along(method, seed):
    if method.stochastic:
        pytest.skip("a mask belongs to the model's position")
    n_models = model_count(method, wanted=4)
    base, models = tensors((5, 8), n_models, seed)
    parameters = settings(method, n_models, seed)
    order = python_random.Random(seed).sample(range(n_models), n_models)
    moved = {
        name: [value[i] for i in order] if method.parameter(name).per_model else value
        for name, value in parameters.items()
    }
    merged = method.apply(base, models, parameters)
    remerged = method.apply(base, [models[i] for i in order], moved)
    torch.testing.assert_close(merged, remerged)


@pytest.mark.parametrize(
    "method", [m for m in registered() if m.base_optional], ids=lambda method: method.name
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_optional_base_left_out_is_a_base_of_zeros(method, shape, seed):
    n_models = model_count(method)
    _, models = tensors(shape, n_models, seed)
    parameters = settings(method, n_models, seed)
    before = [model.clone() for model in models]
    merged = method.apply(None, models, parameters, chance())
    torch.testing.assert_close(
        merged, method.apply(torch.zeros(shape), models, parameters, chance())
    )
    exact = method.apply(None, [model.double() for model in models], parameters, chance())
    torch.testing.assert_close(merged, exact.float(), rtol=1e-5, atol=2e-6)
    assert bool(torch.isfinite(merged).all())
    for model, copy in zip(models, before, strict=True):
        assert torch.equal(model, copy)
        assert model.numel() == 0 or merged.data_ptr() != model.data_ptr()


@methods
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_models_equal_to_the_base_merge_to_it_under_the_defaults(method, seed, shape):
    n_models = model_count(method)
    base, _ = tensors(shape, 0, seed)
    parameters = settings(method, n_models, seed, only_required=True)
    merged = method.apply(base, [base.clone() for _ in range(n_models)], parameters, chance())
    torch.testing.assert_close(merged, base)


@methods
@pytest.mark.parametrize("shape", [(), (7,), (4, 9)], ids=str)
def test_zeros_merge_to_zeros_to_the_bit(method, shape):
    n_models = model_count(method)
    zeros = torch.zeros(shape)
    parameters = settings(method, n_models, seed=1)
    merged = method.apply(zeros, [zeros.clone() for _ in range(n_models)], parameters, chance())
    assert torch.equal(merged, zeros)


@methods
def test_at_both_ends_of_what_each_parameter_may_be_the_result_is_finite(method):
    n_models = model_count(method)
    base, models = tensors((6, 11), n_models, seed=0)
    for parameter in method.parameters:
        low, high = parameter.valid_low, parameter.valid_high
        ends = [-1e6 if low is None else low, 1e6 if high is None else high]
        if parameter.kind == "int":
            ends = [int(low or 1), 1000]
        for end in parameter.choices or ends:
            values = settings(method, n_models, seed=0)
            values[parameter.name] = [end] * n_models if parameter.per_model else end
            merged = method.apply(base, models, values, chance())
            assert bool(torch.isfinite(merged).all()), (parameter.name, end)


@methods
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_gives_float32s_numbers_but_where_an_element_is_chosen_otherwise(
    method, dtype
):
    n_models = model_count(method)
    base, models = tensors((16, 24), n_models, 0, dtype)
    parameters = settings(method, n_models, 0)
    merged = method.apply(base, models, parameters, chance())
    exact = method.apply(base.float(), [m.float() for m in models], parameters, chance())
    assert merged.dtype == dtype
    near = torch.isclose(merged.float(), exact, rtol=8 * torch.finfo(dtype).eps, atol=0.05)
    assert float(near.float().mean()) > 0.9  # equal magnitudes at a threshold: either may be kept


@methods
@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_call_gives_the_same_bits(method, seed):
    n_models = model_count(method)
    base, models = tensors((6, 11), n_models, seed)
    parameters = settings(method, n_models, seed)
    first = method.apply(base, models, parameters, chance())
    assert torch.equal(first, method.apply(base, models, parameters, chance()))


@methods
def test_chance_is_used_exactly_by_the_methods_that_say_so(method):
    n_models = model_count(method)
    base, models = tensors((20, 20), n_models, seed=0)
    results = []
    for seed in (1, 2):
        draws = [
            method.apply(base, models, settings(method, n_models, k), CounterRandom(seed, "a"))
            for k in SEEDS
        ]
        results.append(torch.stack(draws))
    assert torch.equal(*results) is not method.stochastic
    if method.stochastic:
        with pytest.raises(TypeError, match="needs `random`"):
            method.apply(base, models, settings(method, n_models, 0))


@methods
def test_no_global_generator_is_touched(method):
    states = torch.get_rng_state(), python_random.getstate(), str(np.random.get_state())  # noqa: NPY002
    n_models = model_count(method)
    base, models = tensors((6, 11), n_models, seed=0)
    method.apply(base, models, settings(method, n_models, 0), chance())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == python_random.getstate()
    assert states[2] == str(np.random.get_state())  # noqa: NPY002


@methods
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(), (7,), (30, 20)], ids=str)
def test_float32_is_close_to_float64(method, seed, shape):
    n_models = model_count(method)
    parameters = settings(method, n_models, seed)
    base, models = tensors(shape, n_models, seed)
    merged = method.apply(base, models, parameters, chance())
    exact = method.apply(base.double(), [m.double() for m in models], parameters, chance())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(merged, exact.float(), rtol=1e-5, atol=2e-6)


@methods
@pytest.mark.parametrize("seed", SEEDS)
def test_strided_inputs_merge_like_contiguous_ones(method, seed):
    n_models = model_count(method)
    base, models = tensors((8, 5), n_models, seed)
    parameters = settings(method, n_models, seed)
    merged = method.apply(base, models, parameters, chance())
    strided = [tensor.t().contiguous().t() for tensor in (base, *models)]
    assert not strided[0].is_contiguous()
    remerged = method.apply(strided[0], strided[1:], parameters, chance())
    torch.testing.assert_close(merged, remerged)


@methods
@pytest.mark.parametrize("seed", SEEDS)
def test_per_model_values_may_be_a_tensor_or_one_number_for_all(method, seed):
    n_models = model_count(method)
    base, models = tensors((3, 5), n_models, seed)
    parameters = settings(method, n_models, seed)
    single = {
        name: [0.5] * n_models if method.parameter(name).per_model else value
        for name, value in parameters.items()
    }
    merged = method.apply(base, models, single, chance())
    for form in (0.5, torch.full((n_models,), 0.5)):
        same = {
            name: form if method.parameter(name).per_model else value
            for name, value in parameters.items()
        }
        assert torch.equal(merged, method.apply(base, models, same, chance()))


@methods
def test_the_function_itself_is_what_is_registered(method):
    n_models = model_count(method)
    base, models = tensors((3, 5), n_models, seed=0)
    parameters = settings(method, n_models, 0, only_required=True)
    arguments = {"base": base} if method.takes_base else {}
    arguments |= {"random": chance()} if method.stochastic else {}
    merged = method.function(models=models, **arguments, **parameters)
    assert torch.equal(merged, method.apply(base, models, parameters, chance()))


@methods
def test_a_methods_declaration_is_complete(method):
    assert "https://" in method.reference
    assert method.summary.endswith(".")
    for parameter in method.parameters:
        assert parameter.doc.endswith(".")
        if parameter.kind in ("float", "int"):
            assert parameter.low < parameter.high
        if not parameter.required:
            assert method.check(parameter.name, parameter.default) == parameter.default
            if parameter.low is not None:
                assert parameter.low <= parameter.default <= parameter.high


@methods
def test_bad_calls_are_told_in_one_line_that_names_the_method(method):
    n_models = model_count(method)
    base, models = tensors((3, 5), n_models, seed=0)
    good = settings(method, n_models, 0)
    bad_calls = [
        (base, models[: method.min_models - 1], good),
        (base, models, good | {"no_such_parameter": 1.0}),
        (
            base,
            [*models[:-1], torch.zeros(4, 4)] if n_models > 1 else [torch.zeros(4, 4), *models],
            good,
        ),
    ]
    if method.max_models is not None:
        bad_calls.append((base, [*models, models[0]], good))
    assert method.takes_base or not method.base_optional
    if method.takes_base and not method.base_optional:
        bad_calls.append((None, models, good))
    for parameter in method.parameters:
        wrong = [float("nan"), float("-inf"), None, "much", 1e400]
        if parameter.valid_low is not None:
            wrong.append(parameter.valid_low - 1e-9)
        if parameter.valid_high is not None:
            wrong.append(parameter.valid_high + 1e-9)
        bad_calls += [(base, models, good | {parameter.name: value}) for value in wrong]
        if parameter.per_model:
            many = [parameter.low] * (n_models + 1)
            bad_calls.append((base, models, good | {parameter.name: many}))
        else:
            bad_calls.append((base, models, good | {parameter.name: [0.5, 0.5]}))
        if parameter.required:
            rest = {name: value for name, value in good.items() if name != parameter.name}
            bad_calls.append((base, models, rest))
    for arguments in bad_calls:
        with pytest.raises(UserError) as caught:
            method.apply(*arguments, chance())
        assert str(caught.value).startswith(f"{method.name}: ")
        assert "\n" not in str(caught.value)
