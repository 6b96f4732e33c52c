"""A merge has the same bits with any number of threads, by the plain functions and the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from evomerge import methods
from evomerge.merge.kernels.blocked import BlockedKernels
from evomerge.merge.kernels.native import native_kernels
from evomerge.merge.kernels.operation import Kernels
from tests.merge.kernels.test_kernels import bits, both, drawn
from tests.methods.test_conformance import model_count, settings

# Above the 32,768 elements from which PyTorch uses threads; rows of few and of many elements.
SHAPES = [(301, 299), (90_001,), (3, 40_013)]
THREADS = (1, 3)
every_method = pytest.mark.parametrize("method", methods.registered(), ids=lambda m: m.name)


@pytest.fixture(autouse=True)
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def merged(method: Any, base: Any, models: Any, parameters: Any, threads: int) -> torch.Tensor:
    """The plain function's result with so many threads; adapters' factors where it takes them."""
    torch.set_num_threads(threads)
    more: dict[str, Any] = {}
    if "factors" in method.takes and base.dim() == 2:
        draw = torch.Generator().manual_seed(2)
        sides = [(base.shape[0], 8), (8, base.shape[1])]
        more["factors"] = [
            tuple(torch.randn(side, generator=draw) for side in sides) for _ in models
        ]
    random = methods.CounterRandom(5, "a.weight")
    result: torch.Tensor = method.apply(base, models, parameters, random, more)
    return result


@every_method
@pytest.mark.parametrize(
    ("shape", "seeds"),
    [
        (SHAPES[0], 1),
        *(pytest.param(shape, 1, marks=pytest.mark.slow) for shape in SHAPES[1:]),
        pytest.param((700, 700), 4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_plain_functions_have_the_same_bits_with_any_number_of_threads(
    method: Any, shape: tuple[int, ...], seeds: int
) -> None:
    count = model_count(method)
    base, models = drawn(shape, count, torch.float32)
    for seed in range(seeds):
        parameters = settings(method, count, seed)
        first, *others = (merged(method, base, models, parameters, n) for n in THREADS)
        for other in others:
            assert torch.equal(bits(first), bits(other)), parameters
    assert torch.get_num_threads() == THREADS[-1]  # a method leaves the number as it was


@pytest.mark.parametrize("compiled", [False, True], ids=["PyTorch", "C++"])
@every_method
def test_kernels_have_the_same_bits_with_any_number_of_threads(method: Any, compiled: bool) -> None:
    kernels: Kernels | None = native_kernels() if compiled else BlockedKernels()
    if kernels is None:
        pytest.skip("there is no C++ compiler")
    count = model_count(method)
    base, models = drawn((90_001,), count, torch.bfloat16)
    parameters = settings(method, count, 0)
    results = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        plain, operation = both(method, base, models, parameters, kernels)
        if operation is None:
            return
        out = torch.empty(base.numel(), dtype=torch.float32)
        assert kernels.run(operation, out)
        assert torch.equal(bits(out), bits(plain.reshape(-1)))
        results.append(out)
    assert all(torch.equal(bits(out), bits(results[0])) for out in results)


def test_threads_would_show_where_a_sum_follows_them() -> None:
    draw = torch.Generator().manual_seed(0)
    sums = set()
    for size in range(200_000, 200_064):
        values = torch.randn(size, generator=draw)
        for threads in THREADS:
            torch.set_num_threads(threads)
            sums.add((size, float(values.sum())))
    assert len(sums) > 64
