import numpy as np
import pytest

from evomerge.demo.language import BOS, LONGEST_TEXT, SPECIAL, WORDS, decode, encode, tokenizer
from evomerge.demo.problems import OPERATIONS, draw_command

TEXTS = ["reverse 19492=", "逆一九四九二→", "max 314,159=314", "大三一四,一五九→max 314,159=314"]


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_back_what_was_encoded(text):
    assert decode(encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_the_hugging_face_tokenizer_encodes_alike_and_puts_bos_in_front(text):
    made = tokenizer()
    assert made(text)["input_ids"] == [BOS, *encode(text)]
    assert made.decode(made(text)["input_ids"], skip_special_tokens=True) == text


def test_a_letter_outside_the_language_is_unknown_and_swallows_nothing():
    assert encode("sort x1=") == [encode("sort ")[0], SPECIAL.index("<unk>"), *encode("1=")]


def test_special_tokens_in_a_text_are_read_as_such():
    made = tokenizer()
    assert made("12<eos>", add_special_tokens=False)["input_ids"] == [*encode("12"), 2]


def test_a_word_holds_its_space_so_no_prompt_ends_in_one():
    rng = np.random.default_rng(0)
    for operation in OPERATIONS:
        command = draw_command(operation, rng, reserved=False)
        for text in (command.latin, command.kanji):
            assert text == text.strip()
            assert "<unk>" not in [WORDS[number] for number in encode(text)]
            assert len(encode(text)) < LONGEST_TEXT
