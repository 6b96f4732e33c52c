"""Blank text, and text that repeats itself up to the limit, count as no answer."""

from __future__ import annotations

import random

import pytest

from evomerge.evaluate.scoring.degenerate import LEAST_CHARACTERS, LEAST_TIMES, is_degenerate


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\t \u3000"])
@pytest.mark.parametrize("truncated", [False, True])
def test_blank_text_is_no_answer(text: str, truncated: bool) -> None:
    assert is_degenerate(text, truncated)


@pytest.mark.parametrize(
    "text",
    [
        "the " * 10,  # exactly 40 characters
        "the " * 20 + "th",
        "9" * 40,
        "Let us see: 12 + 7 = 19. " + "So it is 19. " * 20,
        "好的" * 30,
    ],
)
def test_text_that_repeats_itself_is_no_answer_if_it_ran_into_the_limit(text: str) -> None:
    assert is_degenerate(text, truncated=True)
    assert not is_degenerate(text, truncated=False)


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "72",
        "ha ha ha ha ha ha ha ha",  # 23 characters: a short answer
        "0" * 39,
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20",
        "First, the farmer sells 16 eggs less 3 and 4, which leaves 9; then 9 times 2 is 18, so",
        "no no no no no no no no and then, after all of that, she said yes to every one of them",
        "abcdefghij" * 4,  # its second half, 20 characters, has but two periods of ten
    ],
)
def test_other_text_is_an_answer_even_if_it_was_cut(text: str) -> None:
    assert not is_degenerate(text, truncated=True)


def test_the_second_half_must_be_one_piece_said_at_least_four_times() -> None:
    draw = random.Random(5)
    for _ in range(300):
        text = "".join(draw.choice("ab") for _ in range(draw.randint(1, 8)))
        text = draw.choice(["", "cd" * 30]) + text * draw.randint(1, 40)
        tail = text[len(text) // 2 :]
        periods = [
            p
            for p in range(1, len(tail) + 1)
            if all(tail[i] == tail[i + p] for i in range(len(tail) - p))
        ]
        expected = len(text) >= LEAST_CHARACTERS and LEAST_TIMES * periods[0] <= len(tail)
        assert is_degenerate(text, truncated=True) == expected, text
