"""Functions that stop at the same places: the order, results, errors, and what is made ahead."""

from __future__ import annotations

import threading

import pytest
import torch

from evomerge.evaluate.streamed.ahead import Ahead
from evomerge.evaluate.streamed.lockstep import in_step, is_in_step, stop_at


def test_all_pass_a_place_before_any_goes_on_to_the_next() -> None:
    seen: list[str] = []

    def task(name: str, places: list[int]) -> str:
        for place in places:
            assert stop_at(place)
            seen.append(f"{name}{place}")
        return name

    paths = {"a": [0, 1, 2], "b": [0, 1, 2, 0, 1], "c": [1, 1, 2]}
    functions = [lambda name=name, path=path: task(name, path) for name, path in paths.items()]
    assert in_step(functions, lambda place: seen.append(str(place))) == ["a", "b", "c"]
    assert " ".join(seen) == "0 a0 b0 1 a1 b1 c1 1 c1 2 a2 b2 c2 0 b0 1 b1"
    assert in_step([], lambda _: None) == []


def test_modes_of_the_caller_hold_and_no_thread_stays() -> None:
    before = threading.active_count()

    def task() -> tuple[bool, bool, int]:
        stop_at(0)
        return torch.is_inference_mode_enabled(), is_in_step(), torch.get_num_threads()

    with torch.inference_mode():
        assert in_step([task] * 3, lambda _: None) == [(True, True, torch.get_num_threads())] * 3
    assert not is_in_step()
    assert not stop_at(0), "nobody waits outside"
    assert threading.active_count() == before


def test_an_error_of_one_ends_the_others_where_they_wait() -> None:
    before, ended = threading.active_count(), []

    def waits(name: str) -> None:
        try:
            try:
                stop_at(0)
                stop_at(1)
            except Exception:  # as models' code does
                ended.append("caught")
        finally:
            ended.append(name)

    def breaks() -> None:
        stop_at(0)
        raise ValueError("one line")

    with pytest.raises(ValueError, match=r"^one line$"):
        in_step([lambda: waits("a"), breaks, lambda: waits("b")], lambda _: None)
    assert ended == ["a", "b"]
    with pytest.raises(KeyError):
        in_step([lambda: waits("c")], lambda _: {}["no weights"])
    assert ended == ["a", "b", "c"]
    assert threading.active_count() == before


def test_one_part_is_made_ahead_and_an_error_in_it_is_raised_where_it_is_taken() -> None:
    ahead, made = Ahead(torch.device("cpu")), []

    def make(part: int) -> dict[str, torch.Tensor]:
        made.append((part, threading.current_thread() is threading.main_thread()))
        if part == 3:
            raise ValueError("part 3 is broken")
        return {"weight": torch.full((2,), float(part))}

    ahead.begin(1, lambda: make(1))
    assert ahead.take(1, lambda: make(1))["weight"].tolist() == [1.0, 1.0]
    assert ahead.take(2, lambda: make(2))["weight"].tolist() == [2.0, 2.0], "nobody expected it"
    ahead.begin(3, lambda: make(3))
    with pytest.raises(ValueError, match="part 3 is broken"):
        ahead.take(3, lambda: make(3))
    ahead.begin(3, lambda: make(3))
    ahead.begin(4, lambda: make(4))  # forgets the other with its error
    assert ahead.take(4, lambda: make(4))["weight"].tolist() == [4.0, 4.0]
    assert made[:2] == [(1, False), (2, True)]
