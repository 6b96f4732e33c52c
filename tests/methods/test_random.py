"""The counter-based numbers: what they are, that they are uniform, and that nothing moves them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from evomerge.methods import CounterRandom
from evomerge.methods.random import tie_order

N = 200_000


def words(key, second_key, indices):
    """The hash in Python's own integers."""

    def mix(x):
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ x >> 16

    return [mix(mix(i ^ key) ^ second_key) for i in indices]


def numbers(seed=0, name="layers.0.weight", model_index=0, n=N):
    return CounterRandom(seed, name).uniform(model_index, (n,)).numpy().astype(np.float64)


def test_the_numbers_are_these():
    drawn = CounterRandom(seed=7, name="model.layers.0.mlp.up_proj.weight").uniform(1, (4,))
    assert (drawn * 2**24).tolist() == PINNED


def test_the_vectorised_hash_is_the_hash_in_plain_integers():
    random = CounterRandom(seed=3, name="a")
    start = 2**32 - 3  # crosses into the second key
    drawn = random.uniform(2, (5,), start=start)
    expected = words(*random.keys(2, 0), range(start, 2**32)) + words(*random.keys(2, 1), (0, 1))
    assert drawn.tolist() == [(word >> 8) / 2**24 for word in expected]


def test_the_numbers_are_float32_in_zero_to_one():
    drawn = CounterRandom(0, "a").uniform(0, (1000, 1000))
    assert drawn.dtype == torch.float32
    assert 0.0 <= float(drawn.min()) < 1e-5
    assert 1 - 1e-5 < float(drawn.max()) < 1.0


@pytest.mark.parametrize("seed", [0, 1, -1, 2**70])
def test_the_numbers_are_uniform(seed):
    u = numbers(seed)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * N)
    assert u.var() == pytest.approx(1 / 12, rel=0.01)
    counts = np.bincount((u * 256).astype(int), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_neighbours_are_uncorrelated():
    u = numbers() - 0.5
    for lag in (1, 2, 3, 4, 8, 16, 64, 192, 576, 1024, 2**15, 2**16):
        correlation = (u[:-lag] * u[lag:]).mean() * 12
        assert abs(correlation) < 4.5 / np.sqrt(N - lag), lag


def test_every_bit_is_set_half_of_the_time():
    bits = (numbers() * 2**24).astype(np.int64)[:, None] >> np.arange(24) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(N)


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"name": "layers.1.weight"}, {"model_index": 1}, {"seed": -0x80000000}],
    ids=str,
)
def test_another_seed_name_or_model_gives_unrelated_numbers(other):
    u, v = numbers(), numbers(**other)
    assert abs(np.corrcoef(u, v)[0, 1]) < 4.5 / np.sqrt(N)
    # one round of hashing would leave the same numbers in another order
    assert len(np.intersect1d(u[:4096], v[:4096])) < 20


def test_a_part_of_a_tensor_can_be_drawn_alone_and_in_any_shape():
    random = CounterRandom(0, "a")
    whole = random.uniform(0, (70_000,))
    assert torch.equal(random.uniform(0, (700, 100)).flatten(), whole)
    for start, count in ((0, 1), (32_767, 2), (65_000, 5_000), (69_999, 1)):
        part = random.uniform(0, (count,), start=start)
        assert torch.equal(part, whole[start : start + count])
    assert random.uniform(0, ()) == whole[0]
    assert random.uniform(0, (0, 3)).shape == (0, 3)


def test_threads_and_earlier_draws_do_not_matter():
    random = CounterRandom(0, "a")
    first = random.uniform(0, (100_000,))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(random.uniform(0, (100_000,)), first)
    finally:
        torch.set_num_threads(threads)
    random.uniform(1, (10,))
    assert torch.equal(random.uniform(0, (100_000,)), first)


def test_another_process_with_another_hash_seed_draws_the_same():
    program = (
        "from evomerge.methods import CounterRandom;"
        "print(CounterRandom(0, 'a').uniform(0, (3,)).tolist())"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment
    ).stdout
    assert output == f"{CounterRandom(0, 'a').uniform(0, (3,)).tolist()}\n"


# key = blake2b(b"7/1/0/model.layers.0.mlp.up_proj.weight", digest_size=8), hashed by `words`
PINNED = [9324533, 7982954, 10201720, 12484996]


def place(index):
    """`tie_order` of one element, by whole numbers of Python."""
    run = index // 128
    hashed = (run % 2**25) ^ 0x13C6EF3
    for factor in (0x1EB352D, 0x06CA68B, 0x1EB352D):
        hashed = hashed * factor % 2**25
        hashed ^= hashed // 2**13
    return run // 2**25 * 2**32 + hashed * 128 + index % 128


def test_ties_are_broken_by_whole_runs_in_an_order_of_their_own():
    indices = [0, 1, 127, 128, 129, 4096, 2**31 + 5, 2**32 - 1, 2**32 + 130, 2**40]
    assert tie_order(torch.tensor(indices)).tolist() == [place(index) for index in indices]
    places = tie_order(torch.arange(2**22))
    assert len(places.unique()) == 2**22
    assert places.view(-1, 128).diff(dim=1).eq(1).all(), "a run stays together"


@pytest.mark.parametrize("columns", [512, 4096, 4100])
def test_every_row_wins_its_share_of_ties(columns):
    rows = 2**21 // columns
    places = tie_order(torch.arange(rows * columns))
    first = (places < places.median()).float().view(rows, columns)
    runs = columns / 128
    share, deviation = first.mean(dim=1), 0.5 / runs**0.5
    assert float(share.mean()) == pytest.approx(0.5, abs=1e-3)
    assert float((share - 0.5).abs().max()) <= 5 * deviation
    assert float((share[: rows // 2].mean() - 0.5).abs()) < 4 * deviation / (rows / 2) ** 0.5
