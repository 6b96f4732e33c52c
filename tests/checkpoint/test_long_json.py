"""JSON through a window: the same as Python reads it whole, wherever the window ends."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.checkpoint import long_json
from evomerge.checkpoint.long_json import LongJson
from evomerge.checkpoint.vocabulary import read_tokenizer, write_added

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.sampled_from([",", "],", "\\", '"']),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
WINDOWS = st.integers(4, 80)


def opened(text: str | bytes) -> LongJson:
    return LongJson(io.BytesIO(text.encode() if isinstance(text, str) else text), 10**6)


def read_list(text: str | bytes) -> list[Any]:
    document = opened(text)
    read = [value for some in document.items() for value in some]
    if document.peek():
        raise ValueError("more")
    return read


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, max_size=12), WINDOWS, st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_the_same_through_any_window(values, window, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "_WINDOW", window)
        assert read_list(text.encode("utf-8", "surrogatepass")) == values


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=12), WINDOWS)
def test_an_object_is_the_same_through_any_window(entries, window):
    text = json.dumps(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "_WINDOW", window)
        pieces = list(opened(text).entries())
        fields, document = {}, opened(text)
        for key in document.fields():
            document.peek()
            assert (
                text.encode()[document.position :]
                .strip()
                .startswith(json.dumps(entries[key])[:1].encode())
            )
            fields[key] = document.value()
    assert {key: value for piece in pieces for key, value in piece.items()} == entries == fields


@settings(deadline=None, max_examples=150)
@given(st.lists(VALUES, max_size=6), WINDOWS, st.integers(0, 200), st.sampled_from('[]{},:"\\ 1x'))
def test_a_damaged_array_is_refused_where_python_refuses_it(values, window, at, letter):
    text = json.dumps(values)
    text = text[: at % len(text)] + letter + text[at % len(text) + 1 :]
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "_WINDOW", window)
        if isinstance(whole, list):
            assert read_list(text) == whole
        else:
            with pytest.raises(ValueError):  # noqa: PT011 - whatever the words
                read_list(text)


@pytest.mark.parametrize(
    "text", ["[1, ,2]", "[1,]", "[,1]", "[1 2]", "[", "", '["a]', "[1]]", "[[1]"]
)
def test_commas_and_brackets_must_be_in_their_places(text):
    with pytest.raises(ValueError):  # noqa: PT011
        read_list(text)


def test_a_value_that_is_longer_than_any_is_refused(monkeypatch):
    monkeypatch.setattr(long_json, "_WINDOW", 64)
    monkeypatch.setattr(long_json, "_LARGEST", 200)
    assert read_list(json.dumps(["x" * 150])) == ["x" * 150]
    with pytest.raises(ValueError, match="longer than 200 characters"):
        read_list(json.dumps(["x" * 500]))


def test_other_added_tokens_are_put_in_their_place_and_nothing_else_changes(tmp_path: Path):
    document = {
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "ü"}],
        "model": {"vocab": {"é": 0}, "merges": ["a b"]},
    }
    (tmp_path / "new").mkdir()
    added = [{"id": 2, "content": "]"}]
    for held in (document, {key: document[key] for key in ("model", "version")}):
        text = json.dumps(held, indent=2, ensure_ascii=False)
        (tmp_path / "tokenizer.json").write_text(text)
        write_added(tmp_path, tmp_path / "new", added)
        assert json.loads((tmp_path / "new" / "tokenizer.json").read_text()) == {
            **held,
            "added_tokens": added,
        }
        read = read_tokenizer(tmp_path / "new")
        assert read is not None
        assert read.vocabulary == {"é": 0, "]": 2}
