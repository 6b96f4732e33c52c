"""Parents of different vocabularies: rows follow tokens, and the tokenizer follows the rows."""

import json
from pathlib import Path

import pytest
import torch

from evomerge.core.errors import UserError
from evomerge.merge.build import build, fill, live_tensors
from evomerge.merge.parents.parents import Parents
from evomerge.merge.plan.in_place import check_in_place
from evomerge.merge.plan.plan import plan
from evomerge.merge.vocabulary.chat import chat_template, write_chat_template
from evomerge.recipe.recipe import Recipe
from tests.merge.merging import load_live
from tests.models import (
    VOCABULARY,
    load,
    make_family,
    make_model,
    near,
    retokenized,
    write_tokenizer,
)

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
A = [*VOCABULARY[:4], *VOCABULARY[:3:-1], "x1", "<a>"]  # the words backwards, then two more
B = [*VOCABULARY[:30], "x2", "x1", "<b>"]  # six words fewer, three tokens more
UNION = [*VOCABULARY, "x1", "x2", "<a>", "<b>"]  # plain ones model by model, then special ones


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    paths = make_family(folder, layers=1)
    retokenized(folder / "a", A, seed=1)
    retokenized(folder / "b", B, seed=2, rows=36)
    near(folder / "a", folder / "same as a", seed=9)
    return {**paths, "same as a": str(folder / "same as a")}


def recipe_of(zoo, source="union", models=("a", "b"), **more):
    document = {
        "merge_method": "task_arithmetic",
        "base_model": zoo["base"],
        "models": [{"model": zoo[m], "parameters": {"weight": 0.5}} for m in models],
        "tokenizer": {"source": zoo.get(source, source), **more},
    }
    if source == "base":  # in the short form
        document["tokenizer_source"] = document.pop("tokenizer")["source"]
    return Recipe.from_dict(document)


def row(zoo, model, tensor, token):
    """A model's row of a token, or ``None``."""
    tokens = {"base": VOCABULARY, "a": A, "b": B}[model]
    return load(zoo[model])[tensor][tokens.index(token)] if token in tokens else None


def expected(zoo, tensor, token, force=None):
    """base + .5 (a - base) + .5 (b - base), whoever lacks the token taking its stand-in."""
    rows = {model: row(zoo, model, tensor, token) for model in ("a", "b", "base")}
    known_rows = [r for r in rows.values() if r is not None]
    stand_in = rows["base"] if rows["base"] is not None else sum(known_rows) / len(known_rows)
    stand_in = stand_in if force is None else force
    rows = {m: stand_in if r is None or force is not None else r for m, r in rows.items()}
    return rows["base"] + 0.5 * (rows["a"] - rows["base"]) + 0.5 * (rows["b"] - rows["base"])


def ids(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).get_vocab()


@pytest.mark.parametrize(
    ("source", "tokens"), [("union", UNION), ("base", VOCABULARY), ("a", A), ("b", B)]
)
def test_rows_follow_their_tokens_and_the_tokenizer_follows_the_rows(zoo, source, tokens, tmp_path):
    build(recipe_of(zoo, source), tmp_path / "out")
    merged = load(tmp_path / "out")
    for tensor in (EMBED, HEAD):
        assert merged[tensor].shape == (len(tokens), 16)
        for number, token in enumerate(tokens):
            wanted = expected(zoo, tensor, token)
            torch.testing.assert_close(merged[tensor][number], wanted, msg=token)
    assert ids(tmp_path / "out") == {token: i for i, token in enumerate(tokens)}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(tokens)
    for name in ("pad", "bos", "eos"):
        assert config[f"{name}_token_id"] == tokens.index(f"<{name}>")
    assert load_live(tmp_path / "out").get_input_embeddings().weight.shape[0] == len(tokens)


def test_a_union_keeps_special_tokens_special(zoo, tmp_path):
    from transformers import AutoTokenizer

    build(recipe_of(zoo), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("w3 x1 <a> x2") == ["w3", "x1", "<a>", "x2"]
    encoded = tokenizer("w3 x1 <a> x2")["input_ids"]
    assert tokenizer.decode(encoded, skip_special_tokens=True) == "w3 x1 x2"


def test_tokens_may_take_other_rows_and_rows_are_padded_by_the_mean(zoo, tmp_path):
    tokens = {
        "w3": {"source": zoo["a"]},  # every model has it: nothing changes
        "w35": {"source": {"kind": "model_token", "model": zoo["a"], "token": "w1"}, "force": True},
        "x1": {"source": {"kind": "model_token", "model": zoo["b"], "token_id": 5}},
        "new": {"source": {"kind": "zero"}},
    }
    build(recipe_of(zoo, "base", pad_to_multiple_of=None), tmp_path / "plain")
    recipe = recipe_of(zoo, tokens=tokens, pad_to_multiple_of=16)
    build(recipe, tmp_path / "out")
    merged = load(tmp_path / "out")[EMBED]
    assert merged.shape == (48, 16)
    torch.testing.assert_close(merged[7], expected(zoo, EMBED, "w3"))
    forced = row(zoo, "a", EMBED, "w1")
    torch.testing.assert_close(merged[39], forced)
    # a and b have x1, the base takes row 5 of b
    x1, other = (row(zoo, m, EMBED, "x1") for m in "ab"), load(zoo["b"])[EMBED][5]
    torch.testing.assert_close(merged[40], other + sum(0.5 * (r - other) for r in x1))
    assert ids(tmp_path / "out")["new"] == 44
    assert torch.equal(merged[44], torch.zeros(16))
    torch.testing.assert_close(merged[45:], merged[:45].mean(0).expand(3, 16))


def test_a_tied_and_an_untied_parent_meet_in_one_vocabulary(tmp_path):
    tied = make_family(tmp_path / "tied", names="", layers=1, tied=True)["base"]
    free = make_family(tmp_path / "free", names="", layers=1, seed=3)["base"]
    retokenized(tmp_path / "tied" / "base", A)
    document = {
        "merge_method": "linear",
        "base_model": free,
        "models": [free, tied],
        "parameters": {"weight": 0.5},
        "tokenizer_source": "base",
    }
    build(Recipe.from_dict(document), tmp_path / "out")
    for tensor in (EMBED, HEAD):
        for token in ("w1", "w35"):
            mine = load(free)[tensor][VOCABULARY.index(token)]
            other = load(tied)[EMBED][A.index(token)]
            merged = load(tmp_path / "out")[tensor][VOCABULARY.index(token)]
            torch.testing.assert_close(merged, (mine + other) / 2)


def test_one_vocabulary_without_spare_rows_is_left_as_it_is(zoo):
    recipe = recipe_of(zoo, "a", models=("a", "same as a"))
    parents = Parents([zoo["a"], zoo["same as a"]])
    same = Recipe.from_dict({**recipe.to_dict(), "base_model": zoo["a"]})
    check_in_place(same, parents.opened)
    parents.check(same)
    assert parents.checkpoints == parents.opened
    with pytest.raises(UserError, match="it changes the parents' vocabulary, and a study"):
        check_in_place(recipe, Parents(recipe.model_names).opened)


def test_a_live_model_of_the_new_size_is_filled_with_what_is_written(zoo, tmp_path):
    recipe = recipe_of(zoo)
    build(recipe, tmp_path / "out")
    parents = Parents(recipe.model_names)
    parents.check(recipe)
    made = plan(recipe, parents.checkpoints)
    live = load_live(zoo["base"])
    with pytest.raises(UserError, match=r"has 40 rows, and the merge 44: call resize"):
        fill(live, made, parents)
    live.resize_token_embeddings(len(UNION), mean_resizing=False)
    fill(live, made, parents)
    written = load(tmp_path / "out")
    for name, tensor in live_tensors(live, made).items():
        assert torch.equal(tensor, written[name]), name


def without(zoo):
    document = recipe_of(zoo).to_dict()
    del document["tokenizer"]
    return Recipe.from_dict(document)


def test_without_a_policy_differing_tokens_are_an_error_that_shows_them(zoo, tmp_path):
    words = r"a: its tokenizer differs from that of .*base, in 38 tokens: '<a>'=41 is not there, "
    words += r"'w0'=39 is 4 there, .*: name a tokenizer_source \(union, base or a model\)"
    with pytest.raises(UserError, match=words):
        build(without(zoo), tmp_path / "out")
    stack = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": zoo[m], "layer_range": [0, 1]}]} for m in ("base", "a")],
    }
    with pytest.raises(UserError, match="its tokenizer differs"):
        build(Recipe.from_dict(stack), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tokens_without_a_row_are_told_by_name(zoo, tmp_path):
    with pytest.raises(UserError, match=r"b has no token '<a>'"):
        build(recipe_of(zoo, tokens={"<a>": {"source": zoo["b"]}}), tmp_path / "out")
    source = {"kind": "model_token", "model": zoo["b"], "token_id": 36}
    with pytest.raises(UserError, match=r"b has 36 rows, and none of number 36"):
        build(recipe_of(zoo, tokens={"z": {"source": source}}), tmp_path / "out")
    spare = with_a_token_beyond_its_rows(zoo, tmp_path)
    with pytest.raises(UserError, match=r"1 tokens have no row in embeddings of 40, first 'y'=40"):
        build(recipe_of({**zoo, "a": spare}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def with_a_token_beyond_its_rows(zoo, tmp_path):
    folder = near(Path(zoo["base"]), tmp_path / "spare", seed=1)
    write_tokenizer(folder, [*VOCABULARY, "y"])
    return str(folder)


TEMPLATE = "{% for m in messages %}{{ m.content }};{% endfor %}"


@pytest.mark.parametrize("wanted", ["auto", TEMPLATE, "chatml"])
def test_a_chat_template_is_written_to_the_tokenizer(tmp_path, wanted):
    from transformers import AutoTokenizer

    family = make_family(tmp_path, layers=1)
    for name in ("a", "b"):
        settings = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        settings["chat_template"] = TEMPLATE + "\n" if name == "a" else "{{ bos_token }}" + TEMPLATE
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(settings))
    models = [family["a"], family["b"]]
    if wanted == "auto":
        models.append(str(near(tmp_path / "b", tmp_path / "c", seed=5)))
    document = {"merge_method": "linear", "models": models, "parameters": {"weight": 1.0}}
    build(Recipe.from_dict({**document, "chat_template": wanted}), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    chat = [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    assert (
        rendered
        == {
            "auto": "<bos>w1;w2;",  # of two models against one
            TEMPLATE: "w1;w2;",
            "chatml": "<|im_start|>user\nw1<|im_end|>\n<|im_start|>assistant\nw2<|im_end|>\n",
        }[wanted]
    )


def test_a_live_model_keeps_its_chat_template_if_prompts_go_through_it(zoo):
    document = {"merge_method": "passthrough", "models": [zoo["base"]], "chat_template": "chatml"}
    recipe = Recipe.from_dict(document)
    opened = Parents(recipe.model_names).opened
    check_in_place(recipe, opened)
    with pytest.raises(
        UserError, match="chat_template: during the study prompts use the base's own"
    ):
        check_in_place(recipe, opened, chat=True)


def test_a_parent_alone_gets_the_tokenizer_of_another(zoo, tmp_path):
    models = [
        {"model": zoo["b"], "parameters": {"weight": 1}},
        {"model": zoo["base"], "parameters": {"weight": 0}},
    ]
    document = {"merge_method": "linear", "models": models, "tokenizer_source": zoo["base"]}
    build(Recipe.from_dict(document), tmp_path / "out")
    merged = load(tmp_path / "out")[EMBED]
    for number, token in enumerate(VOCABULARY):
        row_of_b = row(zoo, "b", EMBED, token)  # of the words that b lacks, the base's rows
        wanted = row(zoo, "base", EMBED, token) if row_of_b is None else row_of_b
        assert torch.equal(merged[number], wanted), token
    assert ids(tmp_path / "out") == ids(zoo["base"])


CHAT = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": " U "},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]
# by the formats' own descriptions
RENDERED = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n U <|im_end|>\n"
    "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<bos><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<bos> [INST] S\n\n U  [/INST] A<eos> [INST] V [/INST]",
    "exaone": "[|system|]S[|endofturn|]\n[|user|] U \n[|assistant|]A[|endofturn|]\n[|user|]V\n"
    "[|assistant|]",
    "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA\n\n### Instruction:\nV\n\n"
    "### Response:\n",
}


@pytest.mark.parametrize("name", RENDERED)
def test_the_known_templates_render_their_formats(zoo, name, tmp_path):
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path, VOCABULARY)
    document = {"merge_method": "passthrough", "models": [zoo["base"]], "chat_template": name}
    template = chat_template(Recipe.from_dict(document), {})
    write_chat_template(template, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert rendered == RENDERED[name]


def test_rows_to_spare_that_all_parents_share_are_not_cut(tmp_path):
    base = retokenized(make_model(tmp_path / "base"), VOCABULARY, rows=48)
    one = near(base, tmp_path / "one", seed=1)
    other = retokenized(near(base, tmp_path / "other", seed=2), VOCABULARY[:-1], rows=48, seed=3)
    for models, alike in (((base, one), True), ((base, other), False)):
        recipe = Recipe.from_dict(
            {
                "merge_method": "linear",
                "base_model": str(base),
                "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models],
                "tokenizer_source": "base",
            }
        )
        build(recipe, tmp_path / f"out-{alike}")
        merged = load(tmp_path / f"out-{alike}")["model.embed_tokens.weight"]
        rows = [load(m)["model.embed_tokens.weight"] for m in models]
        assert merged.shape == (48, 16)
        if alike:
            torch.testing.assert_close(merged, sum(rows) / 2)
        else:
            torch.testing.assert_close(merged[:39], sum(r[:39] for r in rows) / 2)
