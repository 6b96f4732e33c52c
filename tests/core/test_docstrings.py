"""What docstrings say, as Markdown."""

from __future__ import annotations

from evomerge.core.docstrings import body, described


def stretched(length: int) -> int:
    """Stretch it.

    y = a x
      + b

    Where `x` is long,
    it is cut.

    Args:
        length: How long,
            in metres.

    >>> stretched(1)
    1
    """
    return length


def test_a_formula_stands_as_it_is_and_sections_and_examples_stay_out() -> None:
    assert body(stretched) == "```text\ny = a x\n  + b\n```\n\nWhere `x` is long,\nit is cut."


def test_the_words_of_an_argument_are_joined() -> None:
    assert described(stretched, "Args") == {"length": "How long, in metres."}
