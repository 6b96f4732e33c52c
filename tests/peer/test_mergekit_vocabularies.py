"""Vocabularies brought together by mergekit 0.1.5 and by us: the same rows, to the bit."""

import json
from pathlib import Path

import pytest
import torch

from tests.models import VOCABULARY, load, make_family, retokenized
from tests.peer.both import different, entries, merged_by_both, needs_mergekit, recipes_of

pytestmark = needs_mergekit
# One plain token and special ones of one model: of more, mergekit leaves the order to chance.
A = [*VOCABULARY[:4], *VOCABULARY[:3:-1], "x1", "<a1>", "<a2>"]
B = [*VOCABULARY[:30], "x1"]
MORE = {
    "tokens": {
        "w3": {"source": "a"},
        "w35": {"source": {"kind": "model_token", "model": "a", "token": "w1"}, "force": True},
        "x1": {"source": {"kind": "model_token", "model": "b", "token_id": 5}},
        "new": {"source": {"kind": "zero"}},
    },
    "pad_to_multiple_of": 16,
}
WEIGHTS = {"a": [0.2, 0.9], "b": 0.4}


def of(method, source, base="base", **more):
    document = {"merge_method": method, "models": entries(WEIGHTS), "tokenizer": {"source": source}}
    document["tokenizer"] |= more
    return {**document, **({"base_model": base} if base else {})}


RECIPES = {
    "union": of("task_arithmetic", "union"),
    "base": of("task_arithmetic", "base"),
    "a": of("ties", "a"),
    "b": of("ties", "b"),
    "union of linear": of("linear", "union", base="a"),
    "union with rows of its own": of("task_arithmetic", "union", **MORE),
    "padded": of("task_arithmetic", "base", pad_to_multiple_of=64),
    "a base that only lends": of("linear", "base"),
    "a template": {**of("task_arithmetic", "base"), "chat_template": "chatml"},
    "a template of most": {**of("linear", "a", base="a"), "chat_template": "auto"},
    "methods mixed": {
        **of("task_arithmetic", "union", **MORE),
        "blocks": [{"components": ["embedding", "mlp"], "merge_method": "ties"}],
    },
}
CHAT = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    """Every recipe merged by both: {name: (our folder, mergekit's, its problem)}."""
    torch.set_num_threads(1)  # more would add up a mean in another order
    top = tmp_path_factory.mktemp("vocabularies")
    folders = make_family(top / "family", layers=2)
    for name, tokens, rows in (("a", A, 0), ("b", B, 36)):
        retokenized(Path(folders[name]), tokens, seed=3, rows=rows)
        settings = Path(folders[name]) / "tokenizer_config.json"
        template = {"chat_template": "{% for m in messages %}{{ m.content }};{% endfor %}"}
        settings.write_text(json.dumps(json.loads(settings.read_text()) | template))
    return merged_by_both(recipes_of(RECIPES, folders), top)


@pytest.mark.parametrize("name", RECIPES)
def test_mergekit_makes_the_same_rows_and_tokens(merges, name):
    from transformers import AutoTokenizer

    ours, theirs, problem = merges[name]
    assert problem is None, problem
    assert not different(ours, theirs)
    first, second = (AutoTokenizer.from_pretrained(folder) for folder in (ours, theirs))
    assert first.get_vocab() == second.get_vocab()
    assert first.all_special_tokens == second.all_special_tokens
    assert first("w3 x1 <a1> w9")["input_ids"] == second("w3 x1 <a1> w9")["input_ids"]
    configs = [json.loads((folder / "config.json").read_text()) for folder in (ours, theirs)]
    assert configs[0]["vocab_size"] == configs[1]["vocab_size"] == len(load(ours)["lm_head.weight"])
    if "chat_template" in RECIPES[name]:
        first, second = (t.apply_chat_template(CHAT, tokenize=False) for t in (first, second))
        assert first == second
