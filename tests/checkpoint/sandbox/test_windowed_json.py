"""JSON through a window: the same as Python reads it whole, wherever the window ends."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.checkpoint.files.document import parse_json
from evomerge.checkpoint.sandbox import windowed_json as long_json
from evomerge.checkpoint.sandbox.windowed_json import LongJson
from evomerge.checkpoint.vocabulary import read_stream, read_tokenizer, write_added

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
    read = [value for values in document.items() for value in values]
    if document.peek():
        raise ValueError("more")
    return read


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, max_size=12), WINDOWS, st.sampled_from([None, 1]), st.booleans())
def test_an_array_is_the_same_through_any_window(values, window, indent, ascii_only):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "WINDOW", window)
        assert read_list(text.encode("utf-8", "surrogatepass")) == values


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=12), WINDOWS)
def test_an_object_is_the_same_through_any_window(entries, window):
    text = json.dumps(entries)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_json, "WINDOW", window)
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
        patch.setattr(long_json, "WINDOW", window)
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
    monkeypatch.setattr(long_json, "WINDOW", 64)
    monkeypatch.setattr(long_json, "LARGEST", 200)
    assert read_list(json.dumps(["x" * 150])) == ["x" * 150]
    with pytest.raises(ValueError, match="longer than 200 characters"):
        read_list(json.dumps(["x" * 500]))


TOKENS = ["a", "b", "ab", ",", "],", "\\", '"', "é", "😀", "]", "}", "{", "\n", " ", "x,y"]
PIECES = [b",", b"]", b"}", b"[", b"{", b'"', b'"a":1,', b"[],", b" ", b"\\", b"1"]
DAMAGED = (ValueError, KeyError, TypeError, IndexError, AttributeError)


def some_tokenizer(draw: random.Random) -> bytes:
    vocabulary: Any = {token: i for i, token in enumerate(draw.sample(TOKENS, draw.randint(0, 10)))}
    if draw.random() < 0.3:
        vocabulary = [[token, draw.random()] for token in vocabulary]
    merges = [draw.sample(TOKENS, 2) if i % 2 else "a b" for i in range(draw.randint(0, 6))]
    added = [{"id": 100 + i, "content": f"{draw.choice(TOKENS)}{i}"} for i in range(3)]
    parts = {
        "version": "1.0",
        "normalizer": draw.choice([None, {"type": "x", "a": [1, {"b": []}]}]),
        "model": {"vocab": vocabulary, "merges": merges},
        "added_tokens": added[draw.randint(0, 3) :],
    }
    keys = draw.sample(list(parts), draw.randint(3, 4))
    ascii_only, indent = draw.random() < 0.5, draw.choice([None, 1])
    document = {key: parts[key] for key in keys}
    return json.dumps(document, ensure_ascii=ascii_only, indent=indent).encode()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """A tokenizer with up to three letters or pieces changed, taken out, put in or doubled."""
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        at, how = draw.randrange(len(data)), draw.randrange(4)
        if how == 0:
            data = data[:at] + draw.choice('[]{},:"\\ 019eE-.tfn\n').encode() + data[at + 1 :]
        elif how == 1:
            data = data[:at] + data[at + draw.randint(1, 4) :]
        elif how == 2:
            data = data[:at] + draw.choice(PIECES) + data[at:]
        else:
            start = draw.randrange(len(data))
            data = data[:at] + data[start : start + draw.randint(1, 20)] + data[at:]
    return data


def read_whole(data: bytes) -> dict[str, int]:
    """A vocabulary by Python's own parser, all of it at once."""
    document = parse_json(data)
    entries, added = document["model"]["vocab"], document.get("added_tokens", [])
    if not isinstance(added, list):
        raise ValueError("added_tokens")
    listed = isinstance(entries, list)
    vocabulary = {entry[0]: i for i, entry in enumerate(entries)} if listed else dict(entries)
    vocabulary |= {entry["content"]: entry["id"] for entry in added}
    tokens = [entry[0] for entry in entries] if listed else []
    ids = [] if listed else [*entries.values()]
    tokens += [entry["content"] for entry in added]
    ids += [entry["id"] for entry in added]
    if {*map(type, tokens)} - {str} or {*map(type, ids)} - {int}:
        raise ValueError("a token or an id")
    return vocabulary


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_mutated_tokenizer_is_read_or_refused_as_python_does(monkeypatch, count):
    draw, refused = random.Random(2026), 0
    for _ in range(count):
        data = mutated(some_tokenizer(draw), draw)
        monkeypatch.setattr(long_json, "WINDOW", draw.choice([1, 2, 3, 5, 8, 13, 30, 64, 200]))
        read = []
        for way in (read_whole, lambda data: read_stream(io.BytesIO(data)).vocabulary):
            try:
                read.append(way(data))
            except DAMAGED:
                read.append(None)
        assert read[0] == read[1], data
        refused += read[0] is None
    assert count // 3 < refused < count


def test_other_added_tokens_are_put_in_their_place_and_nothing_else_changes(tmp_path: Path):
    document = {
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "ü"}],
        "model": {"vocab": {"é": 0}, "merges": ["a b"]},
    }
    (tmp_path / "new").mkdir()
    added = [{"id": 2, "content": "]"}]
    for entries in (document, {key: document[key] for key in ("model", "version")}):
        text = json.dumps(entries, indent=2, ensure_ascii=False)
        (tmp_path / "tokenizer.json").write_text(text)
        write_added(tmp_path, tmp_path / "new", added)
        assert json.loads((tmp_path / "new" / "tokenizer.json").read_text()) == {
            **entries,
            "added_tokens": added,
        }
        read = read_tokenizer(tmp_path / "new")
        assert read is not None
        assert read.vocabulary == {"é": 0, "]": 2}
