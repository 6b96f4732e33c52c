"""Makes a base and two fine-tunes of an architecture, with the files that a loader reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.corpus.architectures import Architecture
from tests.models import write_settings

PARENTS = ("base", "one", "two")
TOKENS = (torch.arange(10) * 7 % 30 + 4)[None]
PIXELS = torch.linspace(-1, 1, 3 * 28 * 28).reshape(1, 3, 28, 28)
SOUND = torch.linspace(-1, 1, 8 * 32).reshape(1, 8, 32)
FILES = {
    "preprocessor_config.json": {"size": {"height": 28, "width": 28}},
    "processor_config.json": {"image_seq_length": 1},
    "chat_template.json": {"chat_template": "{{ messages[0].content }}"},
    "LICENSE": "MIT",
}


def make_zoo(folder: Path, architecture: Architecture) -> dict[str, Path]:
    """Write the three models, each as transformers saves it; return their folders by name."""
    config = getattr(transformers, architecture.config)(**architecture.settings)
    loader = getattr(transformers, architecture.loader)
    paths = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = loader.from_config(config).eval()
        for number, name in enumerate(PARENTS):
            torch.manual_seed(number + 1)
            with torch.no_grad():
                for weight in dict.fromkeys(model.parameters()):
                    weight.add_((0.2 if name == "base" else 0.05) * torch.randn_like(weight))
            paths[name] = folder / name
            model.save_pretrained(paths[name])
            write_bpe(paths[name])
            for file, content in FILES.items():
                text = content if isinstance(content, str) else json.dumps(content)
                (paths[name] / file).write_text(text)
    return paths


def write_bpe(folder: Path) -> None:
    """Write a byte-level BPE tokenizer, which tokenizer classes of every model understand."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["w", "\u0120", *"0123456789", "\u0120w"]
    pieces += [f"\u0120w{digit}" for digit in "123456789"]
    tokens = ["<pad>", "<bos>", "<eos>", "<unk>", *pieces]
    merges = [("\u0120", "w"), *(("\u0120w", digit) for digit in "123456789")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_settings(folder)


def load(folder: Path, architecture: Architecture) -> Any:
    """The model as transformers loads it, in float32."""
    loader = getattr(transformers, architecture.loader)
    return loader.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any, architecture: Architecture) -> torch.Tensor:
    """The model's logits on one input of its kind."""
    inputs: dict[str, Any] = {"input_ids": TOKENS}
    if architecture.loader == "AutoModelForImageClassification":
        inputs = {"pixel_values": PIXELS}
    elif architecture.loader == "AutoModelForSeq2SeqLM":
        inputs["decoder_input_ids"] = TOKENS
    elif architecture.loader == "AutoModelForSpeechSeq2Seq":
        inputs = {"input_features": SOUND, "decoder_input_ids": TOKENS}
    with torch.no_grad():
        return model(**inputs).logits


def write_task(folder: Path, documents: int = 24) -> Path:
    """Write a multiple-choice task of the zoo's words; return the folder to include."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "corpus_choice.jsonl"
    rows = [
        {
            "prompt": " ".join(f"w{(i * 7 + k * 5) % 30}" for k in range(5)),
            "choices": [f"w{(i + 3 * k) % 30}" for k in range(3)],
            "gold": i % 3,
        }
        for i in range(documents)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "corpus_choice.yaml").write_text(
        "task: corpus_choice\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{prompt}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: gold\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        "metadata: {version: 1.0}\n"
    )
    return folder
