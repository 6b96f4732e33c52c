from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.evaluate.scorer import Scorer
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.request import TaskRequest
from evomerge.evaluate.tasks.text_task import read_chunks
from tests.evaluate.evaluation_bench import Bench

TEXT = "one two three.\n" * 4 + "\n\n" + "a long line without an end " * 9 + "\nlast: äöü\n"


@pytest.mark.parametrize("chunk_bytes", [1, 7, 30, 64, 10_000])
def test_every_byte_is_in_one_chunk_and_no_chunk_is_blank(tmp_path: Path, chunk_bytes: int) -> None:
    (tmp_path / "t.txt").write_bytes(TEXT.encode())
    chunks = read_chunks(tmp_path / "t.txt", chunk_bytes)
    assert "".join(chunks) == TEXT
    assert all(chunk.strip() for chunk in chunks)
    assert len(chunks) == 1 or all(
        len(chunk.strip().encode()) <= chunk_bytes + 1 for chunk in chunks
    )


def test_chunks_end_with_lines_where_lines_fit(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("aaa\nbb\nccccc\n")
    assert read_chunks(tmp_path / "t.txt", 7) == ["aaa\nbb\n", "ccccc\n"]
    assert read_chunks(tmp_path / "t.txt", 4) == ["aaa\n", "bb\n", "cccc", "c\n"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a text, but it is empty"),
        (b" \n\n", "expected a text, but it is empty"),
        (b"ab\xff", "expected UTF-8 text, but byte 2 is not"),
        (None, "cannot read the text: No such file"),
    ],
)
def test_a_file_that_holds_no_text_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_chunks(tmp_path / "t.txt", 100)


def test_bits_per_byte_of_each_chunk_are_those_of_a_float64_softmax(
    llama: Bench, tmp_path: Path
) -> None:
    file = tmp_path / "t.txt"
    file.write_text("item 4: abc=\nitem 77: z=\n" * 3 + "one two three four five six\n")
    request = TaskRequest("prose", text=file, chunk_bytes=25)
    harness = Harness.load([request], num_fewshot=3, tokenizer=llama.tokenizer)
    assert harness.items == {"prose": [0, 1, 2, 3, 4]}
    assert len(set(harness.item_keys["prose"])) == 3  # equal chunks are one document to the pools
    assert not harness.metrics["prose"].higher_is_better
    outcomes = Scorer(llama.model, llama.tokenizer, harness).score(harness.items, "smooth")
    for chunk, outcome in zip(read_chunks(file, 25), outcomes, strict=True):
        tokens = torch.tensor([[1, *llama.tokenizer(chunk)["input_ids"]]])
        with torch.no_grad():
            logits = llama.model(tokens).logits[0].double()
        likely = logits.log_softmax(-1)[:-1].gather(1, tokens[0, 1:, None]).sum()
        bits = -float(likely) / math.log(2) / len(chunk.encode())
        assert outcome.metric == pytest.approx(bits, abs=1e-5)
        assert outcome.smooth == pytest.approx(1 / (1 + bits), abs=1e-5)


def test_another_text_is_another_protocol_and_another_path_is_not(
    llama: Bench, tmp_path: Path
) -> None:
    def digest(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        request = TaskRequest("prose", text=tmp_path / name)
        return Harness.load([request], tokenizer=llama.tokenizer).digest

    first = digest("a.txt", "one\n")
    assert digest("b.txt", "one\n") == first
    assert digest("a.txt", "two\n") != first
