"""Fused kernels give the bits of the plain functions, compiled or not, whatever is cached."""

import os
import subprocess
import sys

import pytest
import torch

from evomerge import methods
from evomerge.core.errors import UserError
from evomerge.merge.build import tensors
from evomerge.merge.compute import merge_into, merged
from evomerge.merge.digest import digest
from evomerge.merge.kernels import native as native_module
from evomerge.merge.kernels.blocked import BlockedKernels
from evomerge.merge.kernels.delta import Delta
from evomerge.merge.kernels.lowering import Inputs, operation_of
from evomerge.merge.kernels.native import kernels_for, native_kernels
from evomerge.merge.kernels.operation import Dropping, Part
from evomerge.merge.kernels.ranking import Bracket, Edge
from evomerge.merge.kernels.statistics import Statistics
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.plan import plan
from evomerge.methods.deltas import l1_norm
from evomerge.methods.random import tie_order
from tests.merge.merging import recipe_of
from tests.methods.test_conformance import model_count, settings

FUSED = {
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "linear",
    "magnitude_prune",
    "nuslerp",
    "passthrough",
    "slerp",
    "task_arithmetic",
    "ties",
    "wise_ft",
}
SHAPES = [(), (7,), (37, 51), (90_001,)]  # the last is above the size whose ranking is sampled
DTYPES = [torch.float32, torch.bfloat16]
every_method = pytest.mark.parametrize("method", methods.registered(), ids=lambda m: m.name)


@pytest.fixture(scope="module")
def compiled():
    try:
        native_module.compiler()
    except OSError:
        pytest.skip("there is no C++ compiler")
    native_module.library(native_module.compiler())  # a kernel that cannot be built is an error
    kernels = native_kernels()
    if kernels is None and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("PyTorch without vector instructions rounds otherwise: kernels are not used")
    assert kernels is not None, "the kernels round otherwise than PyTorch: see the warning"
    return kernels


def bits(tensor):
    return tensor.view(torch.int16 if tensor.element_size() == 2 else torch.int32)


def drawn(shape, count, stored, scale=0.002):
    """A base and models near it; in bfloat16 many of their differences are equal."""
    generator = torch.Generator().manual_seed(1)
    base = (torch.randn(shape, generator=generator) * 0.02).to(stored)
    noise = (scale * torch.randn(shape, generator=generator) for _ in range(count))
    return base, [(base.float() + part).to(stored) for part in noise]


def both(method, base, models, parameters, kernels, working=torch.float32, statistics=None):
    """The plain function's result, and the operation that stands for it."""
    base = base if method.takes_base else None
    random = methods.CounterRandom(5, "a.weight") if method.stochastic else None
    inputs = Inputs(
        None if base is None else base.reshape(-1),
        [model.reshape(-1) for model in models],
        ("base", *range(len(models))),
        working,
        random,
        statistics or Statistics(on_disk=False),
        kernels,
    )
    whole = {
        spec.name: [spec.default] * len(models) if spec.per_model else spec.default
        for spec in method.parameters
    }
    operation = operation_of(method.name, inputs, whole | parameters)
    plain = method.apply(
        None if base is None else base.to(working).float(),
        [model.to(working).float() for model in models],
        parameters,
        random,
    )
    return plain, operation


def check(method, base, models, parameters, kernels, working=torch.float32):
    plain, operation = both(method, base, models, parameters, kernels, working)
    if operation is None:
        return 0
    checked = 0
    for stored in DTYPES:
        out = torch.empty(base.numel(), dtype=stored)
        if kernels.run(operation, out):
            assert torch.equal(bits(out), bits(plain.to(stored).reshape(-1))), parameters
            checked += 1
    return checked


@every_method
@pytest.mark.parametrize("stored", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pytorch_kernels_give_the_plain_functions_bits(method, shape, stored):
    count = model_count(method)
    base, models = drawn(shape, count, stored)
    checked = sum(
        check(method, base, models, settings(method, count, seed), BlockedKernels())
        for seed in range(1 if shape == SHAPES[-1] else 4)
    )
    assert (checked > 0) == (method.name in FUSED)


@every_method
@pytest.mark.parametrize("stored", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_kernels_give_the_plain_functions_bits(method, shape, stored, compiled):
    count = model_count(method)
    base, models = drawn(shape, count, stored)
    checked = sum(
        check(method, base, models, settings(method, count, seed), compiled)
        for seed in range(1 if shape == SHAPES[-1] else 6)
    )
    assert (checked > 0) == (method.name in FUSED)


@pytest.mark.parametrize("density", [0.0, 1e-9, 0.3, 0.999999, 1.0])
@pytest.mark.parametrize("method", ["ties", "magnitude_prune", "breadcrumbs", "dare_ties"])
@pytest.mark.parametrize("shape", [(0,), (1,), (128,), (70_000,)], ids=str)
def test_densities_at_the_ends_of_their_range(method, density, shape, compiled):
    spec = methods.get(method)
    base, models = drawn(shape, model_count(spec, 2), torch.bfloat16)
    given = {"density": [density] * len(models)} | (
        {"weight": [0.7] * len(models)} if method != "magnitude_prune" else {}
    )
    for kernels in (compiled, BlockedKernels()):
        check(spec, base, models, given, kernels)


def test_of_equal_magnitudes_runs_from_everywhere_are_kept(compiled):
    base, model = torch.zeros(100_000), torch.ones(100_000)
    model[::3] = -1.0
    ties = methods.get("ties")
    given = {"weight": [1.0], "density": [0.4321]}
    for kernels in (compiled, BlockedKernels()):
        _, operation = both(ties, base, [model], given, kernels)
        out = torch.empty(100_000)
        kernels.run(operation, out)
        places = tie_order(torch.arange(100_000))
        kept = places <= places.sort().values[43_209]
        assert torch.equal(out, torch.where(kept, model, 0.0))
        share = out.ne(0).float().view(10, 10_000).mean(dim=1)  # of each tenth of the tensor
        assert float((share - 0.4321).abs().max()) < 0.17, "three deviations of 78 runs"


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "slerp"])
def test_rounding_the_inputs_first_is_part_of_the_kernels(method, compiled):
    spec = methods.get(method)
    count = model_count(spec)
    base, models = drawn((3001,), count, torch.float32)
    given = settings(spec, count, 1, only_required=True)
    for kernels in (compiled, BlockedKernels()):
        assert check(spec, base, models, given, kernels, torch.bfloat16) == 2


@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "slerp"])
def test_half_precision_and_float64_are_left_to_pytorch(method):
    spec = methods.get(method)
    count = model_count(spec)
    kernels = kernels_for(torch.device("cpu"))
    for stored in (torch.float16, torch.float64):
        base, models = drawn((3001,), count, stored)
        assert check(spec, base, models, settings(spec, count, 0), kernels) in (0, 2)


def test_subnormal_numbers_and_signs_of_zero_survive(compiled):
    base = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 1e-45, 1e38, -1e38, -0.0] * 20)
    model = torch.tensor([-0.0, -0.0, 2e-40, -3e-40, -1e-45, 1e38, 1e38, 0.0] * 20)
    for name in ("linear", "task_arithmetic", "ties", "wise_ft", "passthrough", "magnitude_prune"):
        spec = methods.get(name)
        for seed in range(8):
            check(spec, base, [model], settings(spec, 1, seed), compiled)
            check(spec, base, [model], settings(spec, 1, seed), BlockedKernels())


@pytest.mark.parametrize("weight", [1e39, -1e39])
def test_weights_beyond_float32_are_left_to_pytorch(weight, compiled):
    base, models = drawn((300,), 2, torch.float32)
    linear = methods.get("linear")
    plain, operation = both(linear, base, models, {"weight": [weight, 1.0]}, compiled)
    out = torch.empty(300)
    assert not compiled.run(operation, out)
    kernels_for(torch.device("cpu")).run(operation, out)
    assert torch.equal(
        out,
        plain,
    ) or bool((out.isnan() == plain.isnan()).all())


def test_weights_that_cancel_are_refused_as_the_plain_function_refuses_them(compiled):
    _, models = drawn((300,), 2, torch.float32)
    linear, given = methods.get("linear"), {"weight": [1.0, -1.0]}
    with pytest.raises(UserError) as plainly:
        linear.apply(None, models, given)
    inputs = Inputs(None, models, (None, 0, 1), torch.float32, None, Statistics(), compiled)
    with pytest.raises(UserError) as fused:
        operation_of("linear", inputs, given | {"normalize": True})
    assert str(fused.value) == str(plainly.value)


@pytest.mark.parametrize(
    "count",
    [
        *(1, 3, 6, 7, 8, 33, 128, 4097, 70_001, 1_300_003),
        pytest.param(2**24 + 32, marks=pytest.mark.slow),  # the last with levels of 16 rows
        pytest.param(2**24 + 33 * 33, marks=pytest.mark.slow),  # of 32 rows
    ],
)
def test_norms_are_pytorchs_sums_of_whole_tensors(count, compiled):
    base, (model,) = drawn((count,), 1, torch.bfloat16)
    change = model.float() - base.float()
    magnitude = change.abs()
    sought = Delta(base, model, torch.float32)
    threshold, outlier = magnitude.kthvalue(1 + count // 3).values, magnitude.max() * 0.9
    last = Edge(int(threshold.view(torch.int32)), 2**31)
    top = Bracket(last, last)
    too_large = Edge(int(outlier.view(torch.int32)), 2**30)
    place = tie_order(torch.arange(count))
    in_top = (magnitude > threshold) | ((magnitude == threshold) & (place <= 2**31))
    dropped = (magnitude > outlier) | ((magnitude == outlier) & (place <= 2**30))
    draw = methods.CounterRandom(3, "a.weight")
    cases = [
        (Part(model), change),
        (Part(model, bracket=top, scale=2.0), change * in_top),
        (Part(model, bracket=top, outlier=too_large), change * (in_top & ~dropped)),
        (Part(model, dropping=Dropping(draw, 1, 0.6)), change * (draw.uniform(1, (count,)) < 0.6)),
    ]
    for part, masked in cases:
        expected = masked.abs().sum()
        for kernels in (compiled, BlockedKernels()):
            assert torch.equal(kernels.norm(sought, part), expected)


def test_norms_do_not_depend_on_the_number_of_threads():
    numbers = torch.randn(2**20, generator=torch.Generator().manual_seed(0))
    before, norms = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            norms.add(float(l1_norm(numbers)))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(norms) == 1


def test_a_result_depends_neither_on_the_kernels_nor_on_what_is_cached(
    llama, tmp_path, monkeypatch
):
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path))
    digests = set()
    for method in ("ties", "dare_ties"):
        recipe = recipe_of(llama, method)
        warm = Parents(recipe.model_names)
        for kernels in (warm.kernels, BlockedKernels(), warm.kernels):
            warm.kernels = kernels
            digests.add((method, digest(tensors(plan(recipe, warm.checkpoints), warm))))
    assert len(digests) == 2


def test_a_tensor_that_is_not_contiguous_is_filled_as_well(llama):
    recipe = recipe_of(llama, dtype="float32")
    parents = Parents(recipe.model_names)
    job = next(j for j in plan(recipe, parents.checkpoints).jobs if len(j.shape) == 2)
    whole = merged(job, parents, recipe)
    out = torch.empty(job.shape[::-1]).t()
    merge_into(out, job, parents, recipe)
    assert torch.equal(out, whole)


@pytest.mark.usefixtures("compiled")
def test_the_library_is_made_once_and_made_again_if_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path))
    compiler = native_module.compiler()
    file = native_module.library(compiler)
    first, made = file.read_bytes(), file.stat().st_mtime_ns
    assert native_module.library(compiler) == file
    assert file.stat().st_mtime_ns == made
    file.write_bytes(first[: len(first) // 2])
    assert native_module.library(compiler) == file
    assert file.stat().st_size == len(first)
    assert {f.suffix for f in file.parent.iterdir()} == {".so", ".sha256"}


def test_without_a_compiler_merging_goes_on_and_says_so_once(tmp_path):
    code = (
        "import logging, torch; logging.basicConfig(level='WARNING')\n"
        "from evomerge.merge.kernels.native import kernels_for\n"
        "for _ in range(3): print(type(kernels_for(torch.device('cpu'))).__name__)\n"
    )
    environment = {
        "PATH": "",
        "EVOMERGE_CACHE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["BlockedKernels"] * 3
    assert done.stderr.count("there is no C++ compiler") == 1
