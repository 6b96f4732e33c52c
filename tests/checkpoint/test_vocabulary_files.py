"""Tokens of older kinds of tokenizer files: they agree with tokenizer.json, or are told apart."""

import base64
import json
import struct

import pytest

from evomerge.checkpoint.compatible import check_same_tokens
from evomerge.checkpoint.opening import open_model
from evomerge.checkpoint.vocabulary_files import read_vocabulary
from evomerge.core.errors import UserError
from tests.models import VOCABULARY, make_model


def sentencepiece(tokens):
    """A ModelProto with these pieces, as sentencepiece serializes it: piece, score and type."""

    def piece(text, kind):
        data = text.encode()
        inner = b"\x0a" + bytes([len(data)]) + data + b"\x15" + struct.pack("<f", -1.5)
        inner += bytes([0x18, kind])
        return b"\x0a" + bytes([len(inner)]) + inner

    pieces = b"".join(piece(token, 3 if token.startswith("<") else 1) for token in tokens)
    trainer = b"\x12\x04\x18\x02\x20\x01"
    return pieces + trainer


def write(folder, kind, tokens):
    """Replace tokenizer.json by files of another kind."""
    (folder / "tokenizer.json").unlink(missing_ok=True)
    ids = {token: i for i, token in enumerate(tokens)}
    if kind == "vocab.json":
        (folder / "vocab.json").write_text(json.dumps(dict(list(ids.items())[:-2])))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        (folder / "added_tokens.json").write_text(json.dumps(dict(list(ids.items())[-2:])))
    elif kind == "vocab.txt":
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    elif kind == "tokenizer.model":
        (folder / "tokenizer.model").write_bytes(sentencepiece(tokens[:-1]))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["added_tokens_decoder"] = {str(len(tokens) - 1): {"content": tokens[-1]}}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    else:
        lines = [base64.b64encode(t.encode()) + b" %d\n" % i for t, i in ids.items()]
        (folder / "small.tiktoken").write_bytes(b"".join(lines))


KINDS = ("vocab.json", "vocab.txt", "tokenizer.model", "tiktoken")


@pytest.fixture
def pair(tmp_path):
    return make_model(tmp_path / "base"), make_model(tmp_path / "other", seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_tokens_in_other_files_agree(kind, pair):
    base, other = pair
    write(other, kind, VOCABULARY)
    assert read_vocabulary(other) == read_vocabulary(base)
    check_same_tokens(open_model(base), open_model(other))


@pytest.mark.parametrize("kind", KINDS)
def test_other_tokens_are_told_apart_by_name(kind, pair):
    base, other = pair
    write(other, kind, [*VOCABULARY[:20], VOCABULARY[21], VOCABULARY[20], *VOCABULARY[22:]])
    with pytest.raises(UserError, match=r"in 2 tokens: 'w16'=21 is 20 there, 'w17'=20 is 21"):
        check_same_tokens(open_model(base), open_model(other))


def test_a_damaged_sentencepiece_model_is_refused_by_name(pair):
    _, other = pair
    write(other, "tokenizer.model", VOCABULARY)
    data = (other / "tokenizer.model").read_bytes()
    (other / "tokenizer.model").write_bytes(data[:-9])
    with pytest.raises(UserError, match=r"tokenizer\.model: expected a sentencepiece model"):
        read_vocabulary(other)


def test_a_folder_without_a_tokenizer_goes_with_any(pair):
    base, other = pair
    (other / "tokenizer.json").unlink()
    assert read_vocabulary(other) is None
    check_same_tokens(open_model(base), open_model(other))
