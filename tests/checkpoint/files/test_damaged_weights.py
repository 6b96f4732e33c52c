"""Weights that were cut short, tampered with, or never were safetensors."""

import json
import os
import random
import struct
import time

import pytest
import torch
from safetensors.torch import save

from evomerge.checkpoint.files.header import read_header
from evomerge.checkpoint.opening import open_model
from evomerge.core.errors import UserError

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def written(folder, header, data=b"", length=None):
    """Write model.safetensors with a header (text, or data to be written as JSON)."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    prefix = struct.pack("<Q", len(text) if length is None else length)
    file = folder / "model.safetensors"
    file.write_bytes(prefix + text + data)
    return file


def load_everything(folder):
    checkpoint = open_model(folder)
    return {name: checkpoint.tensor(name) for name in checkpoint.tensors}


def test_a_header_written_by_hand_is_read(folder):
    written(folder, {"x": ENTRY}, struct.pack("<2f", 1.5, -2.0))
    assert load_everything(folder)["x"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"x": {**ENTRY, "dtype": "F9"}}, 8, "tensor 'x' has an unknown dtype or a bad entry"),
        ({"x": {**ENTRY, "dtype": "I64"}}, 8, r"of shape \(2,\) does not fit its 8 bytes"),
        ({"x": {**ENTRY, "shape": [3]}}, 8, r"of shape \(3,\) does not fit its 8 bytes"),
        ({"x": {**ENTRY, "shape": [-1, -2]}}, 8, "tensor 'x' has a bad name or shape"),
        ({"x": {**ENTRY, "shape": [2.0]}}, 8, "tensor 'x' has an unknown dtype or a bad entry"),
        ({"x": {**ENTRY, "shape": "2"}}, 8, "tensor 'x' has an unknown dtype or a bad entry"),
        ({"x": {**ENTRY, "data_offsets": ["0", "8"]}}, 8, "or a bad entry"),
        ({"x": {**ENTRY, "data_offsets": [False, 8]}}, 8, "or a bad entry"),
        ({"x": {**ENTRY, "data_offsets": [0, float("inf")]}}, 8, "or a bad entry"),
        ({"x": {**ENTRY, "data_offsets": [8, 0]}}, 8, "does not fit its -8 bytes"),
        ({"x": {**ENTRY, "data_offsets": [0]}}, 8, "or a bad entry"),
        ({"x": {"dtype": "F32"}}, 8, "or a bad entry"),
        ({"x": None}, 8, "or a bad entry"),
        ({"x" * 600: ENTRY}, 8, "has a bad name or shape"),
        ({"x": ENTRY}, 7, r"truncated: expected \d+ bytes but it has \d+"),
        ({"x": ENTRY}, 9, r"truncated: expected \d+ bytes but it has \d+"),
        ({"x": ENTRY, "y": ENTRY}, 8, "overlap or leave a hole"),
        ({"x": ENTRY, "y": {**ENTRY, "data_offsets": [4, 12]}}, 12, "overlap or leave a hole"),
        ({"x": ENTRY, "y": {**ENTRY, "data_offsets": [12, 20]}}, 20, "overlap or leave a hole"),
        ({"x": {**ENTRY, "data_offsets": [-8, 0]}}, 8, "overlap or leave a hole"),
        ({"": ENTRY}, 8, "tensor '' has a bad name or shape"),
        ({"ü" * 300: ENTRY}, 8, "has a bad name or shape"),  # 512 bytes, not letters
        ({"a\nb": ENTRY}, 8, "has a bad name or shape"),
        ('{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', 8, "bad name"),
        ({"x": {**ENTRY, "shape": [1] * 17 + [2]}}, 8, "does not fit its 8 bytes"),
        ({"__metadata__": {"format": 3}, "x": ENTRY}, 8, "expected __metadata__ to be a mapping"),
        ({"__metadata__": ["pt"], "x": ENTRY}, 8, "expected __metadata__ to be a mapping"),
        ('{"x": 1, "x": 2}', 0, "key 'x' appears twice"),
        ('{"a":' + "[]," * 700_001 + "1}", 0, "more than 1,400,000 parts"),
        ('{"a":' + "{}," * 700_001 + "1}", 0, "more than 1,400,000 parts"),
        ([1], 0, "expected a header of at most"),
        ('{"x": ', 8, "cannot read its safetensors header"),
        ('{"x": ' + "1" * 5000 + "}", 8, "cannot read its safetensors header"),
        ("[" * 100_000, 8, "cannot read its safetensors header"),
    ],
)
def test_a_wrong_header_is_refused_by_the_name_of_what_is_wrong(folder, header, size, message):
    file = written(folder, header, bytes(size))
    with pytest.raises(UserError, match=message) as caught:
        read_header(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**63, 2**64 - 1])
def test_a_header_cannot_be_longer_than_the_file(folder, length):
    file = written(folder, {"x": ENTRY}, bytes(8), length=length)
    with pytest.raises(UserError, match=f"its header claims {length} bytes in a file of"):
        read_header(file)


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\x80\x04\x95", b"PK\x03\x04" * 100])
def test_a_file_that_is_no_safetensors_file_is_refused(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="not a safetensors file, or truncated"):
        open_model(folder)


def test_a_file_that_goes_after_its_header_was_read_is_named(folder):
    file = written(folder, {"__metadata__": {"format": "pt"}, "x": ENTRY}, bytes(8))
    checkpoint = open_model(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: cannot read tensor x"):
        checkpoint.tensor("x")


def test_a_link_that_leaves_the_models_folder_is_refused_before_it_is_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "config.json").write_text('{"secret": "value"}')
    written(secret, {"x": ENTRY}, bytes(8))
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        folder = tmp_path / f"model-{name}"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        written(folder, {"x": ENTRY}, bytes(8))
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret / name)
        (secret / name).touch()
        with pytest.raises(UserError, match=f"{name}: a link that leaves the model's folder"):
            open_model(folder)


def test_links_inside_the_folder_and_the_hubs_cache_layout_are_followed(tmp_path):
    model = tmp_path / "models--org--name"
    folder, blobs = model / "snapshots" / "abc", model / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("{}")
    written(blobs, {"x": ENTRY}, bytes(8)).rename(blobs / "2")
    (folder / "config.json").symlink_to("../../blobs/1")
    (folder / "model.safetensors").symlink_to("../../blobs/2")
    assert list(open_model(folder).tensors) == ["x"]
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_text("{}")
    written(plain, {"x": ENTRY}, bytes(8)).rename(plain / "weights")
    (plain / "model.safetensors").symlink_to("weights")
    (tmp_path / "named").symlink_to(plain)
    assert list(open_model(tmp_path / "named").tensors) == ["x"]


def test_a_pipe_in_a_files_place_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(UserError, match="expected"):
        open_model(folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "other.safetensors")
    with pytest.raises(UserError, match=r"other\.safetensors: expected a regular file"):
        open_model(folder)


def mutated(data, draw):
    """One of the ways in which a file goes wrong."""
    data = bytearray(data)
    header = struct.unpack("<Q", data[:8])[0]
    how = draw.randrange(8)
    if how == 0:
        return data[: draw.randrange(len(data))]
    if how == 1:
        return data + bytes(draw.randrange(1, 20))
    if how == 2:  # the length
        data[draw.randrange(8)] = draw.randrange(256)
    elif how == 3:  # a bit anywhere
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == 4:  # a byte of the header
        data[8 + draw.randrange(header)] = draw.randrange(256)
    elif how == 5:  # a digit or a sign in the header
        digits = [i for i in range(8, 8 + header) if chr(data[i]).isdigit()]
        data[draw.choice(digits)] = ord(draw.choice("0123456789-.eE"))
    elif how == 6:  # a piece of the header moved elsewhere
        start, end = sorted(draw.randrange(8, 8 + header) for _ in range(2))
        at = draw.randrange(8, 8 + header)
        piece = data[start:end]
        data[at : at + len(piece)] = piece
    else:  # a value of another kind
        text = data[8 : 8 + header].decode()
        word = draw.choice(['"F32"', '"BF16"', "[3,2]", "[5]", '"shape"', '"data_offsets"'])
        other = draw.choice(["null", "1e999", '"\\ud800"', "[]", "{}", "NaN", "-1", "true"])
        text = text.replace(word, other, 1)
        return struct.pack("<Q", len(text)) + text.encode() + data[8 + header :]
    return data


def test_a_mutated_file_loads_or_is_refused_and_quickly(folder):
    tensors = {
        "a.weight": torch.arange(6.0).reshape(3, 2),
        "b.bias": torch.arange(5.0),
        "c.scale": torch.ones(2, dtype=torch.bfloat16),
    }
    whole = save(tensors, metadata={"format": "pt"})
    draw, refused, loaded, started = random.Random(7), 0, 0, time.process_time()
    for _ in range(600):
        (folder / "model.safetensors").write_bytes(mutated(whole, draw))
        try:
            load_everything(folder)
            loaded += 1
        except UserError:
            refused += 1
    assert refused > 300
    assert loaded > 10
    assert time.process_time() - started < 20
