"""Tiny models, a character tokenizer and local tasks of every kind, made here."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from evomerge.evaluate.generation.decode import Answer, Decoder
from evomerge.evaluate.generation.generation import TextGenerator
from evomerge.evaluate.likelihood.attention import max_packed_length
from evomerge.evaluate.tasks.encode import Encoder
from evomerge.evaluate.tasks.harness import Harness
from evomerge.evaluate.tasks.lm_eval_api import stock_model

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
VOCABULARY = SPECIAL + list(string.ascii_lowercase + string.digits + " .,:?=#\n")
N_DOCUMENTS = 24
CHAT = (
    "{% for message in messages %}{{ message['role'][:1] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def make_tokenizer(bos: bool) -> Any:
    ids = {token: i for i, token in enumerate(VOCABULARY)}
    rules = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    rules.decoder = decoders.Fuse()
    if bos:
        rules.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def make_config(architecture: str) -> Any:
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    common = {"vocab_size": len(VOCABULARY), "initializer_range": 0.35, **ends}
    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
    }
    if architecture == "llama":
        return LlamaConfig(**common, **small, tie_word_embeddings=True)
    if architecture == "gemma2":
        return Gemma2Config(**common, **small, head_dim=16, final_logit_softcapping=3.0)
    if architecture == "qwen3":
        return Qwen3Config(**common, **small, head_dim=16, tie_word_embeddings=True)
    if architecture == "gemma3":  # every other layer sees 40 tokens only
        kinds = ["sliding_attention", "full_attention"]
        return Gemma3TextConfig(
            **common, **small, head_dim=16, sliding_window=40, layer_types=kinds
        )
    assert architecture == "gpt2", architecture
    return GPT2Config(**common, n_embd=32, n_layer=2, n_head=2, n_positions=128)


def make_model(architecture: str, seed: int) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(make_config(architecture)).eval()


def distinct_prefixes(inputs: Iterable[tuple[int, ...]]) -> int:
    """The fewest tokens that can be computed: one for each distinct prefix of an input."""
    return len({tokens[:n] for tokens in inputs for n in range(1, len(tokens) + 1)})


@dataclass(frozen=True)
class Bench:
    """A model, its tokenizer, and a folder of tasks whose answers it sometimes gives."""

    model: Any
    tokenizer: Any
    folder: Path


def continuation(model: Any, tokenizer: Any, prompt: str, length: int) -> str:
    """The text that transformers' own generate writes after a prompt."""
    tokens = torch.tensor([tokenizer(prompt)["input_ids"]])
    out = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=length,
        do_sample=False,
        pad_token_id=0,
    )
    return str(tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True))


def answers(
    bench: Bench, harness: Harness, items: Iterable[tuple[str, int]], batch_size: int = 64
) -> list[Answer]:
    """The answers of our loop, or else lm-eval's, to the first request of each item."""
    stock = stock_model(bench.model, bench.tokenizer, batch_size)
    decoder = Decoder(bench.model, bench.tokenizer, batch_size, max_packed_length(bench.model))
    generation = TextGenerator(stock, Encoder(stock, harness), decoder, lambda _: None)
    return generation(generation.share_out([(i, harness.requests(*i)[0]) for i in items]))


def write_tasks(folder: Path, model: Any, tokenizer: Any) -> None:
    """JSONL documents and one YAML file per task; every other gold is what the model writes."""
    documents = []
    for i in range(N_DOCUMENTS):
        prompt = f"item {i * 37 % 101}: " + string.ascii_lowercase[i % 7 : i % 7 + 1 + i % 5] + "="
        written = continuation(model, tokenizer, prompt, 12)
        answer = written[:3] if i % 2 else "nowhere"
        for stop in (".", "\n"):
            written = written.split(stop)[0]
        choices = [answer, "yes", "a longer choice", string.digits[i % 10]]
        shift, gold = i % 4, i // 4 % 4  # the right choice, whose index varies
        documents.append(
            {
                "prompt": prompt,
                "answer": answer,
                "whole": written.strip() if i % 2 and written.strip() else "nothing",
                "answers": ["none", written.strip() or "none"] if i % 3 else ["nothing", "none"],
                "choices": choices[shift:] + choices[:shift],
                "gold": (gold - shift) % 4,
                "digit": str(i % 10),
            }
        )
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in documents))
    shots = folder / "shots.jsonl"
    shots.write_text("".join(json.dumps(one) + "\n" for one in documents[::-1][:9]))
    for name, body in TASKS.items():
        write_task(folder, name, body)
    (folder / "both.yaml").write_text("group: both\ntask: [choice, likelihood]\n")


def write_task(folder: Path, name: str, body: str, data: str = "documents.jsonl") -> None:
    head = (
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {folder / data}\n    train: {folder / 'shots.jsonl'}\n"
        'test_split: test\ndoc_to_text: "{{prompt}}"\n'
    )
    (folder / f"{name}.yaml").write_text(head + body)


def metrics(*names: str, higher: bool = True) -> str:
    lines = [
        f"  - metric: {name}\n    aggregation: mean\n    higher_is_better: {str(higher).lower()}\n"
        for name in names
    ]
    return "metric_list:\n" + "".join(lines)


CHOICE = 'output_type: multiple_choice\ndoc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
GENERATE = (
    'output_type: generate_until\ntarget_delimiter: ""\n'
    'generation_kwargs:\n  until: ["\\n", "."]\n  max_gen_toks: 12\n  do_sample: false\n'
)
TRIM = (
    "filter_list:\n  - name: trimmed\n    filter:\n      - function: remove_whitespace\n"
    "      - function: take_first\n"
)
DIGITS = (
    "filter_list:\n"
    "  - name: digit\n    filter:\n"
    "      - function: regex\n        regex_pattern: '([0-9])'\n      - function: take_first\n"
    "  - name: plain\n    filter:\n      - function: take_first\n"
)
FEWSHOT = "training_split: train\nfewshot_split: train\nnum_fewshot: 2\n"
TASKS = {
    "choice": CHOICE + metrics("acc", "acc_norm"),
    "choice_norm": CHOICE + metrics("acc_norm", "acc"),
    "choice_shots": CHOICE + FEWSHOT + metrics("acc"),
    "choice_mutual": CHOICE + metrics("acc_mutual_info", "acc"),
    "likelihood": (
        'output_type: loglikelihood\ndoc_to_target: "{{answer}}"\n'
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        "  - metric: perplexity\n    aggregation: perplexity\n    higher_is_better: false\n"
    ),
    "write": GENERATE + 'doc_to_target: "{{whole}}"\n' + TRIM + metrics("exact_match"),
    "write_digit": GENERATE + 'doc_to_target: "{{digit}}"\n' + DIGITS + metrics("exact_match"),
    "write_shots": GENERATE + FEWSHOT + 'doc_to_target: "{{answer}}"\n' + metrics("exact_match"),
    "write_any": GENERATE + 'doc_to_target: "{{answers}}"\n' + TRIM + metrics("exact_match"),
    "rolling": (
        'output_type: loglikelihood_rolling\ndoc_to_target: "{{prompt * 9}}"\n'
        "metric_list:\n  - metric: bits_per_byte\n  - metric: word_perplexity\n"
    ),
}
