"""Rows are read as the recipe says, and what is no row is named by its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evomerge.calibration.rows import batches, read_rows
from evomerge.core.errors import UserError
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Calibration, Data


class Letters:
    """A tokenizer of letters that puts <s> (1) before every text, and </s> (2) behind it."""

    def __init__(self, end: bool = False) -> None:
        self.end = end

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        plain = [ord(letter) for letter in text]
        if add_special_tokens:
            plain = [1, *plain, *([2] if self.end else [])]
        return {"input_ids": plain}


def written(folder: Path, *rows: Any) -> Data:
    file = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _, document = Data.kind_of(str(file), "data")
    return Data(**document)


def read(data: Data, longest: int = 100, **settings: Any) -> Any:
    return read_rows(data, Calibration(**settings), Letters(), longest)


def test_a_text_counts_from_its_second_token_and_an_answer_from_its_first(tmp_path: Path) -> None:
    data = written(tmp_path, {"text": "ab"}, {"prompt": "cd", "answer": "ef"})
    text, answer = read(data).rows
    assert text.tokens == (1, 97, 98)
    assert text.first == 1
    assert answer.tokens == (1, 99, 100, 101, 102)
    assert answer.first == 3


def test_an_end_that_the_tokenizer_puts_behind_every_text_is_left_out(tmp_path: Path) -> None:
    data = written(tmp_path, {"prompt": "c", "answer": "e"})
    (row,) = read_rows(data, Calibration(), Letters(end=True), 100).rows
    assert (row.tokens, row.first) == ((1, 99, 101), 2)


def test_a_long_text_loses_its_end_and_a_long_prompt_its_beginning(tmp_path: Path) -> None:
    data = written(
        tmp_path, {"text": "abcdef"}, {"prompt": "abcdef", "answer": "xy"}, {"text": "a"}
    )
    rows = read(data, tokens=4)
    assert rows.rows[0].tokens == (1, 97, 98, 99)
    assert rows.rows[1].tokens == (101, 102, 120, 121)
    assert rows.rows[1].first == 2
    assert rows.cut == 2
    shorter = read(data, longest=3)  # the model's positions
    assert shorter.rows[1].tokens == (102, 120, 121)
    assert shorter.rows[1].first == 1


def test_an_answer_longer_than_all_that_fits_is_cut_behind_one_given_token(tmp_path: Path) -> None:
    data = written(tmp_path, {"prompt": "ab", "answer": "vwxyz"})
    (row,) = read(data, tokens=3).rows
    assert (row.tokens, row.first) == ((98, 118, 119), 1)


def test_rows_are_drawn_by_the_seed_and_stay_in_the_files_order(tmp_path: Path) -> None:
    data = written(tmp_path, *({"text": letter * 2} for letter in "abcdefghij"))
    first, again, other = (read(data, rows=4, seed=seed) for seed in (0, 0, 1))
    numbers = [row.number for row in first.rows]
    assert numbers == sorted(numbers)
    assert len(numbers) == 4
    assert first == again
    assert [row.number for row in other.rows] != numbers
    assert len(read(data, rows=40).rows) == 10


def test_a_batch_has_rows_of_one_length(tmp_path: Path) -> None:
    data = written(tmp_path, *({"text": "a" * n} for n in (2, 3, 2, 5, 3, 3)))
    made = list(batches(read(data).rows, tokens=8))
    assert [[len(row.tokens) for row in batch] for batch in made] == [[6], [4, 4], [4], [3, 3]]
    assert sorted(row.number for batch in made for row in batch) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "expected one row"),
        (("{",), r"line 1: expected \{\"text\""),
        (({"text": "ab"}, {"prompt": "a"}), "line 2: expected"),
        (({"text": 3},), "line 1: expected"),
        (("[" * 100_000,), "line 1: expected"),
        (({"text": ""},), "line 1: expected a token to predict"),
        (({"prompt": "ab", "answer": ""},), "line 1: expected a token to predict"),
    ],
)
def test_what_is_no_row_is_named_by_its_line(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(written(tmp_path, *rows))


def test_rows_that_changed_since_the_recipe_was_made_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path, {"text": "ab"})
    Path(data.file).write_text('{"text": "xy"}\n')
    with pytest.raises(UserError, match="its rows are not those of the recipe"):
        read(data)
    Path(data.file).unlink()
    with pytest.raises(UserError, match="cannot read the rows"):
        read(data)
    Path(data.file).write_bytes(b"\xff\n")
    _, document = Data.kind_of(data.file, "data")
    with pytest.raises(UserError, match="expected UTF-8"):
        read(Data(**document))


def test_a_recipes_digest_holds_the_rows_and_not_their_path(tmp_path: Path) -> None:
    def recipe(folder: str, text: str, **more: Any) -> Recipe:
        (tmp_path / folder).mkdir(exist_ok=True)
        data = written(tmp_path / folder, {"text": text})
        models = [{"model": "m", "data": data.file}, {"model": "n", "data": data.to_dict()}]
        inner = {"merge_method": "regmean", "models": models, **more}
        outer = {"merge_method": "linear", "models": [{"model": "fit"}]}
        outer["parameters"] = {"weight": 1}
        assert Recipe.from_dict(Recipe.from_dict(inner).to_dict()) == Recipe.from_dict(inner)
        return Recipe.from_dict({**outer, "merges": {"fit": inner}})

    here, there = recipe("x", "ab"), recipe("y", "ab")
    assert here != there
    assert here.digest == there.digest
    assert recipe("z", "cd").digest != here.digest
    assert recipe("x", "ab", calibration={"rows": 3}).digest != here.digest
    assert recipe("x", "ab", calibration={"rows": 256}).digest == here.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"calibration": {"rows": 0}}, "calibration.rows: expected a whole number of at least 1"),
        ({"calibration": {"labels": "mine"}}, "calibration.labels"),
        ({"calibration": {"row": 3}}, "row"),
        (
            {"merge_method": "linear", "calibration": {"rows": 3}},
            "only concrete, fisher, moe, mole, regmean, twin_merging, ubgm, wemoe read",
        ),
        ({"models": [{"model": "m", "data": "nowhere.jsonl"}]}, "nowhere.jsonl cannot be read"),
        ({"models": [{"model": "m", "data": 3}]}, "data"),
        ({"models": [{"model": "m", "data": {"file": "f", "sha256": "0"}}]}, "SHA-256 of 64"),
    ],
)
def test_mistakes_in_data_and_calibration_are_named(change: Any, message: str) -> None:
    document = {"merge_method": "regmean", "models": ["m"], "parameters": {"weight": 1}, **change}
    with pytest.raises(UserError, match=message):
        Recipe.from_dict(document)
