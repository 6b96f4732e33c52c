"""A base and two experts of 27 M parameters with random weights, and lm-eval tasks for them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils import logging

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
WORDS = [f"w{i}" for i in range(4096 - len(SPECIAL))]
N_DOCUMENTS = 12


COMMON = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make(folder: Path, architecture: str = "llama") -> None:
    """Write models into `folder` and tasks into its `tasks`; Bloom's take no block mask."""
    logging.disable_progress_bar()
    if architecture == "bloom":
        config = BloomConfig(**COMMON, n_layer=8, n_head=8)
    else:
        config = LlamaConfig(
            **COMMON,
            intermediate_size=1536,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=1024,
        )
    for seed, name in enumerate(("base", "one", "two")):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.002 * torch.randn_like(parameter)
        model.save_pretrained(folder / name)
        _tokenizer().save_pretrained(folder / name)
    _write_tasks(folder / "tasks")


def _tokenizer() -> PreTrainedTokenizerFast:
    ids = {token: i for i, token in enumerate(SPECIAL + WORDS)}
    rules = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def _write_tasks(folder: Path) -> None:
    """Questions of 40 to 80 words with four choices of 2 to 5, without and with five examples."""
    folder.mkdir(exist_ok=True)
    drawn = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(drawn.choices(WORDS, k=drawn.randint(low, high)))

    for split, count in (("test", N_DOCUMENTS), ("train", 5)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for _ in range(count):
                document = {
                    "prompt": words(40, 80),
                    "choices": [words(2, 5) for _ in range(4)],
                    "gold": drawn.randrange(4),
                }
                file.write(json.dumps(document) + "\n")
    for name, shots in (("large_choice", 0), ("large_shots", 5)):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {s: str(folder / f"{s}.jsonl") for s in ("test", "train")}
            },
            "test_split": "test",
            "training_split": "train",
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
            "num_fewshot": shots,
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML
