"""Scores a zoo's models, and simple merges of them, by exact match without lm-eval.

``python -m evomerge.demo.exam ZOO`` prints the table that shows if a zoo is worth searching
on: every parent good at its own skill alone, the uniform average better than any parent, task
arithmetic better still and short of perfect. An answer counts as right if every token of it,
<eos> included, is the likeliest given the right ones before it: what greedy decoding amounts to.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.demo.language import BOS, EOS, EQUALS, PAD, encode
from evomerge.demo.mixtures import EXPERTS
from evomerge.demo.tasks import TASKS, documents

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def exact_match(model: PreTrainedModel, task: str, count: int = 512) -> float:
    """Return the share of `count` documents of a task that a model answers exactly."""
    import torch

    sign = encode(EQUALS) if task == "ja" else [EOS]  # where lm-eval stops reading
    rows, starts, ends = [], [], []
    for document in documents(task, count):
        prompt = [BOS, *encode(str(document["prompt"]))]
        answer = [*encode(str(document["answer"])), *sign]
        rows.append(prompt + answer)
        starts.append(len(prompt))
        ends.append(len(prompt) + len(answer))
    width = max(ends)
    tokens = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    with torch.inference_mode():
        logits = model(input_ids=tokens, attention_mask=tokens != PAD).logits
    likeliest = logits.argmax(-1)  # (count, width)
    right = likeliest[:, :-1] == tokens[:, 1:]  # position t predicts token t + 1
    position = torch.arange(1, width)
    answered = (position >= torch.tensor(starts)[:, None]) & (
        position < torch.tensor(ends)[:, None]
    )
    return float((right | ~answered).all(dim=1).float().mean())


def task_arithmetic(
    base: Mapping[str, Tensor], experts: list[Mapping[str, Tensor]], weight: float
) -> dict[str, Tensor]:
    """Return base + weight * sum of (expert - base); at weight 1/n the experts' average."""
    return {
        name: tensor + weight * sum(expert[name] - tensor for expert in experts)
        for name, tensor in base.items()
    }


def table(zoo: Path) -> dict[str, list[float]]:
    """Return the exact match by task (in the order of `TASKS`) of parents and simple merges."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(zoo / "base", dtype=torch.float32)
    base = load_file(zoo / "base" / "model.safetensors")
    experts = {name: load_file(zoo / f"expert-{name}" / "model.safetensors") for name in EXPERTS}
    rows = {"base": base, **{f"expert {name}": weights for name, weights in experts.items()}}
    for weight in (0.25, 0.4, 0.5, 0.6):
        rows[f"task arithmetic {weight}"] = task_arithmetic(base, [*experts.values()], weight)
    model.eval()  # type: ignore[no-untyped-call]
    scores = {}
    for name, weights in rows.items():
        loaded = model.load_state_dict(weights, strict=False)  # the tied head is not among them
        assert not loaded.unexpected_keys, loaded.unexpected_keys
        scores[name] = [exact_match(model, task) for task in TASKS]
    return scores


def main(zoo: str) -> None:
    """Print the table."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    print(f"{'':20}" + "".join(f"{task:>12}" for task in (*TASKS, "mean")))
    for name, scores in table(Path(zoo)).items():
        row = [*scores, sum(scores) / len(scores)]
        print(f"{name:20}" + "".join(f"{score:12.3f}" for score in row))


if __name__ == "__main__":
    main(sys.argv[1])
