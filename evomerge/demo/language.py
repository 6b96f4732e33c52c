"""Defines the zoo's language: 37 words, their ids, and the tokenizer that lm-eval loads.

A command is an operation, digits and a closing sign, in one of two scripts:
``reverse 19492=`` or ``逆一九四九二→``. An operation's latin word holds its trailing space, so
that no prompt ends in one (lm-eval moves trailing spaces into the continuation).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OPERATIONS = ("copy", "rotate", "reverse", "sort", "max")
KANJI_OPERATIONS = ("写", "回", "逆", "整", "大")
LATIN_DIGITS = "0123456789"
KANJI_DIGITS = "〇一二三四五六七八九"
COMMA, EQUALS, ARROW = ",", "=", "→"

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNKNOWN = range(4)
WORDS: tuple[str, ...] = (
    *SPECIAL,
    EQUALS,
    COMMA,
    ARROW,
    *(f"{operation} " for operation in OPERATIONS),
    *KANJI_OPERATIONS,
    *LATIN_DIGITS,
    *KANJI_DIGITS,
)
IDS = {word: number for number, word in enumerate(WORDS)}
LONGEST_TEXT = 128  # tokens a model has positions for; a prompt and its answer take 23 at most

_WORD = f"(?:{'|'.join(OPERATIONS)}) |."
_FIND = re.compile(_WORD)


def encode(text: str) -> list[int]:
    """Return the ids of `text`, without <bos>.

    >>> encode("sort 21=")
    [10, 19, 18, 4]
    """
    return [IDS.get(word, UNKNOWN) for word in _FIND.findall(text)]


def decode(ids: Iterable[int]) -> str:
    """Return the text of `ids`; special tokens are left out.

    >>> decode([BOS, *encode("逆一九→"), EOS])
    '逆一九→'
    """
    return "".join(WORDS[number] for number in ids if number >= len(SPECIAL))


def to_kanji(digits: Sequence[int]) -> str:
    """Write digits in the second script.

    >>> to_kanji([1, 9, 0])
    '一九〇'
    """
    return "".join(KANJI_DIGITS[digit] for digit in digits)


def to_latin(digits: Sequence[int]) -> str:
    """Write digits in the first script."""
    return "".join(LATIN_DIGITS[digit] for digit in digits)


def tokenizer(words: Sequence[str] = WORDS, pattern: str = _WORD) -> PreTrainedTokenizerFast:
    """Return the same encoding as a Hugging Face tokenizer, which puts <bos> in front.

    Args:
        words: Of a language, `SPECIAL` first.
        pattern: A regular expression that finds them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[UNKNOWN]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        unk_token=SPECIAL[UNKNOWN],
        clean_up_tokenization_spaces=False,
        model_max_length=LONGEST_TEXT,
    )
