"""Files of a model folder that are as large as they may be, hostile ones and a real one's like."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

MEGABYTE = 2**20
_WIDE = "\U0001f600"  # one of it, and every letter beside it takes four bytes
Make = Callable[[Path], None]  # spoils a folder that has a config.json


def gemma_like(file: Path, tokens: int = 262_144, merges: int = 514_906) -> None:
    """A tokenizer.json as large as Gemma's: 33 MB and more, in several scripts, merges as pairs."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    others = [chr(code) for code in (*range(0x4E00, 0x9000), *range(0x1F300, 0x1F600))]
    vocabulary: dict[str, int] = {}
    while len(vocabulary) < tokens:
        few = draw.choices(letters, k=draw.randint(1, 12))
        word = few if draw.random() < 0.7 else draw.choices(others, k=draw.randint(1, 4))
        vocabulary.setdefault("▁" * draw.randrange(2) + "".join(word), len(vocabulary))
    known = list(vocabulary)
    added = [
        {"id": tokens + i, "content": f"<unused{i}>", "single_word": False, "special": False}
        for i in range(6000)
    ]
    pairs = [draw.choices(known, k=2) for _ in range(merges)]
    model = {"type": "BPE", "unk_token": None, "vocab": vocabulary, "merges": pairs}
    with file.open("w", encoding="utf-8") as out:
        json.dump({"added_tokens": added, "model": model}, out, ensure_ascii=False, indent=2)


def hostile() -> dict[str, Make]:
    """What is refused, or at least must not hurt, by what it does."""
    return {
        "header: 690,000 names": _header(
            lambda: _object('"%x":""', 690_000, '{"__metadata__":%s}')
        ),
        "header: 690,000 wide names": _header(
            lambda: _object('"%x":""', 690_000, f'{{"__metadata__":{{"{_WIDE}":""}},"x":%s}}')
        ),
        "header: 100,000 tensors": _header(
            lambda: _object(
                '"t%d":{"dtype":"F32","shape":[0,1,1,1],"data_offsets":[0,0]}', 100_000, "%s"
            )
        ),
        "header: 1,400,000 lists": _header(lambda: '{"x":[' + "[]," * 1_399_990 + "[]]}"),
        "header: 16 MB of one wide text": _header(
            lambda: f'{{"__metadata__":{{"a":"{_WIDE}{"x" * (15 * MEGABYTE)}"}}}}'
        ),
        "config.json: 4 MB of lists": _file(
            "config.json", lambda: '{"x":[' + "[]," * (1_390_000) + "[]]}"
        ),
        "tokenizer.json: 1,990,000 tokens": _tokenizer(
            lambda: _object('"%x":0', 1_990_000, '{"model":{"vocab":%s}}')
        ),
        "tokenizer.json: 1,000,000 tokens": _tokenizer(
            lambda: _object('"%x":%d', 1_000_000, '{"model":{"vocab":%s}}')
        ),
        "tokenizer.json: 600,000 long wide tokens": _tokenizer(
            lambda: _object(f'"{_WIDE}%090x":%d', 600_000, '{"model":{"vocab":%s}}')
        ),
        "tokenizer.json: 64 MB of one wide token": _tokenizer(
            lambda: f'{{"model":{{"vocab":{{"{_WIDE}{"x" * (63 * MEGABYTE)}":0}}}}}}'
        ),
        "tokenizer.json: 3,990,000 empty merges": _tokenizer(
            lambda: '{"model":{"vocab":{},"merges":[' + "[]," * 1_990_000 + "[]]}}"
        ),
        "tokenizer.json: 1,300,000 added lists": _tokenizer(
            lambda: '{"model":{"vocab":{}},"added_tokens":[' + "[]," * 1_990_000 + "[]]}"
        ),
        "tokenizer.json: commas in every token": _tokenizer(
            lambda: _object('"%x,,,,,,,,,,,,":%d', 260_000, '{"model":{"vocab":%s}}')
        ),
        "tokenizer.json: texts of commas": _tokenizer(
            lambda: '{"model":{"vocab":{},"merges":[' + ('"' + "," * 2000 + '",') * 1900 + '""]}}'
        ),
        "tokenizer.json: nested lists": _tokenizer(lambda: '{"x":' + "[" * 1_900_000),
        "tokenizer.json: a long value": _tokenizer(
            lambda: '{"normalizer":[' + "[]," * 600_000 + "[]]}"
        ),
        "tokenizer.json: 64 MB of white space": _tokenizer(
            lambda: '{"model":{"vocab":{}}' + " " * (63 * MEGABYTE) + "}"
        ),
    }


def _object(entry: str, count: int, whole: str) -> str:
    pieces = (entry % ((i,) * entry.count("%")) for i in range(count))
    return whole % f"{{{','.join(pieces)}}}"


def _file(name: str, text: Callable[[], str]) -> Make:
    return lambda folder: (folder / name).write_bytes(text().encode()) and None


def _tokenizer(text: Callable[[], str]) -> Make:
    return _file("tokenizer.json", text)


def _header(text: Callable[[], str]) -> Make:
    def make(folder: Path) -> None:
        data = text().encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)

    return make


def folders(home: Path) -> Iterator[tuple[str, Path]]:
    """A folder for each hostile file, gone when the next one is asked for."""
    for number, (name, make) in enumerate(hostile().items()):
        folder = home / str(number)
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        make(folder)
        yield name, folder
        for file in folder.iterdir():
            file.unlink()
