from __future__ import annotations

import random

import pytest

from evomerge.evaluate.likelihood.packing import PackedBatch, n_tokens, pack
from evomerge.evaluate.token_requests import Tokens
from tests.evaluate.evaluation_bench import distinct_prefixes


def questions(seed: int, shots: int, count: int, choices: int) -> dict[Tokens, int]:
    """Inputs and the lengths of their contexts: shared examples, questions, choices."""
    generator = random.Random(seed)
    examples = tuple(generator.randrange(9) for _ in range(shots))
    inputs = {}
    for _ in range(count):
        context = examples + tuple(generator.randrange(9) for _ in range(generator.randint(4, 30)))
        for _ in range(choices):
            answer = tuple(generator.randrange(9) for _ in range(generator.randint(0, 4)))
            inputs[context + answer] = len(context)
    return inputs


CASES = [(0, 0, 20, 4), (1, 90, 20, 4), (2, 40, 40, 1), (3, 300, 3, 5), (4, 2, 60, 2)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_token_sees_exactly_the_tokens_before_it_in_its_input(
    case: tuple[int, int, int, int], batch_size: int
) -> None:
    inputs = questions(*case)
    paths = {}
    for batch in pack(inputs, batch_size, 10_000):
        assert len(batch.rows) <= batch_size
        for row in batch.rows:
            for tokens, path in row.paths.items():
                paths[tokens] = path
                read = batch.prefix + tuple(row.tokens[column] for column in path)
                assert read == tokens
                assert [row.depths[column] for column in path] == list(
                    range(len(batch.prefix), len(tokens))
                )
                for index, column in enumerate(path):
                    seen = [j for j in range(column + 1) if column <= row.last[j]]
                    assert seen == list(path[: index + 1])
                # The token that predicts the continuation is in the row, not in the prefix.
                assert len(batch.prefix) < inputs[tokens]
    assert set(paths) == set(inputs)


@pytest.mark.parametrize("case", CASES)
def test_batches_do_not_depend_on_the_order_of_the_inputs(case: tuple[int, int, int, int]) -> None:
    inputs = questions(*case)
    backward = dict(reversed(inputs.items()))
    assert pack(inputs, 7, 10_000) == pack(backward, 7, 10_000)


def test_examples_that_all_documents_share_are_computed_once() -> None:
    inputs = questions(1, 90, 20, 4)
    prefixes = {batch.prefix for batch in pack(inputs, 64, 10_000)}
    assert [len(prefix) for prefix in prefixes] == [90]


def test_tasks_with_different_examples_get_different_prefixes() -> None:
    inputs = questions(1, 90, 20, 4) | questions(7, 120, 20, 4)
    lengths = sorted({len(batch.prefix) for batch in pack(inputs, 64, 10_000)})
    assert lengths == [90, 120]


def test_a_prefix_that_few_inputs_share_is_not_worth_a_call() -> None:
    assert {batch.prefix for batch in pack(questions(3, 300, 1, 5), 64, 10_000)} == {()}
    assert {batch.prefix for batch in pack(questions(4, 2, 60, 2), 64, 10_000)} == {()}


@pytest.mark.parametrize(("case", "most"), [(CASES[0], 1.15), (CASES[1], 1.15), (CASES[4], 1.15)])
def test_hardly_more_tokens_are_computed_than_there_are_distinct_prefixes(
    case: tuple[int, int, int, int], most: float
) -> None:
    inputs = questions(*case)
    assert n_tokens(pack(inputs, 64, 10_000)) <= most * distinct_prefixes(inputs)
    assert n_tokens(pack(inputs, 64, 0)) > 1.5 * distinct_prefixes(inputs)


def test_wider_models_get_longer_rows_where_that_saves_tokens() -> None:
    generator = random.Random(0)
    inputs = {}
    for _ in range(12):  # groups of 50 to 95 tokens, of which two fill no row of 95
        context = tuple(generator.randrange(999) for _ in range(generator.randint(40, 80)))
        for _ in range(4):
            answer = tuple(generator.randrange(999) for _ in range(generator.randint(1, 4)))
            inputs[context + answer] = len(context)
    narrow, wide = pack(inputs, 64, 1024, 64), pack(inputs, 64, 1024, 512)
    assert n_tokens(wide) <= 1.1 * distinct_prefixes(inputs) < n_tokens(narrow)
    assert max(len(row.tokens) for batch in narrow for row in batch.rows) < 100
    assert pack(inputs, 64, 100, 512) == narrow  # no row is longer than the model takes


def test_inputs_longer_than_allowed_get_rows_of_their_own() -> None:
    inputs = {(1, 2, 3): 2, (1, 2, 4): 2, (1, 2, 3, 5, 6): 2, (1, 2, 3, 5, 7): 2}
    (packed, plain) = pack(inputs, 64, 3)
    assert [row.tokens for row in packed.rows] == [(1, 2, 3, 4)]
    assert [row.tokens for row in plain.rows] == [(1, 2, 3, 5, 6), (1, 2, 3, 5, 7)]
    assert all(row.is_chain for row in plain.rows)
    assert not packed.rows[0].is_chain


def test_two_choices_of_one_context_by_hand() -> None:
    (batch,) = pack({(5, 6, 7, 8): 2, (5, 6, 9): 2}, 64, 100)
    assert isinstance(batch, PackedBatch)
    (row,) = batch.rows
    assert row.tokens == (5, 6, 7, 8, 9)
    assert row.depths == (0, 1, 2, 3, 2)
    assert row.last == (4, 4, 3, 3, 4)
    assert row.paths == {(5, 6, 7, 8): [0, 1, 2, 3], (5, 6, 9): [0, 1, 4]}


def test_nothing_packs_to_nothing() -> None:
    assert pack({}, 64, 100) == []
