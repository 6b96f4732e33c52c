"""Measures streamed candidates: memory and time beside whole ones, and what working ahead is worth.

    python experiments/streamed/measure.py [FOLDER]

A base and two parents of random bfloat16 weights, 12 layers 1,024 wide and 32,000 tokens (.5 GB
each), are written to FOLDER (a temporary one), then: peak of anonymous memory of a process that
scores whole and streamed candidates; seconds of a pass over 8 rows of 48 tokens, one after the
other and with the next part made ahead, files read before (warm) and dropped from the page cache
(cold), by turns. One thread for a worker; once on all cores, once on a single one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS, ROWS, LENGTH, BATCHES = 3, 4, 48, 2
CONFIG = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


def make(folder: Path) -> None:
    """Write the base and two parents."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    for name in ("base", "a", "b"):
        model = LlamaForCausalLM(LlamaConfig(**CONFIG)).to(torch.bfloat16)
        model.save_pretrained(folder / name)


def candidate(folder: Path, streamed: bool, ahead: bool = False) -> tuple[Any, Callable[[], Any]]:
    """Return a live model in float32, and what fills it again."""
    import torch

    from evomerge.evaluate.model import load_model
    from evomerge.evaluate.streamed.streamed import Streamed
    from evomerge.merge.build import fill
    from evomerge.merge.parents.parents import Parents
    from evomerge.merge.plan.plan import plan
    from evomerge.merge.streamed import StreamedMerge
    from evomerge.recipe.recipe import Recipe

    torch.set_num_threads(1)
    recipe = Recipe.from_dict(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(folder / "base"),
            "models": [{"model": str(folder / name)} for name in "ab"],
            "parameters": {"weight": 0.5},
            "out_dtype": "bfloat16",
        }
    )
    parents = Parents(recipe.model_names)
    built = plan(recipe, parents.checkpoints)
    model, _ = load_model(folder / "base", "float32", empty=streamed)
    if not streamed:
        return model, lambda: fill(model, built, parents)
    stream = Streamed(model, ahead)

    def again() -> None:
        stream.source = StreamedMerge(model, built, parents)

    return model, again


def score(model: Any) -> Any:
    """Run the batches, and return the logits of their last tokens."""
    import torch

    from evomerge.evaluate.streamed.streamed import together

    tokens = torch.arange(BATCHES * ROWS * LENGTH).reshape(BATCHES, ROWS, LENGTH) % 32000

    def run(batch: Any) -> Any:
        return model(input_ids=batch, use_cache=False, logits_to_keep=1).logits

    with torch.inference_mode():
        return together(model, [lambda batch=batch: run(batch) for batch in tokens])


def memory(folder: Path, arm: str) -> None:
    """Print the peak of a process's anonymous memory beyond its start, in MB (a child process)."""
    import threading

    import torch  # noqa: F401
    import transformers  # noqa: F401

    def anonymous() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0])

    start, peak, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    model, fill = candidate(folder, arm != "whole", arm == "ahead")
    fill()
    score(model)
    done.set()
    thread.join()
    print(f"{arm}: {(peak[0] - start) / 1000:.0f} MB beyond {start / 1000:.0f}", flush=True)


def drop(folder: Path) -> None:
    """Drop the files from the page cache; whoever maps them must have unmapped them."""
    for file in folder.rglob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def once(folder: Path, arm: str, cold: bool) -> float:
    """Return the seconds of one candidate, its parents opened anew."""
    model, fill = candidate(folder, arm != "whole", arm == "ahead")
    if cold:
        drop(folder)
    else:
        for file in folder.rglob("*.safetensors"):
            file.read_bytes()
    began = time.perf_counter()
    fill()
    score(model)
    return time.perf_counter() - began


def times(folder: Path) -> None:
    """Print medians of seconds and of ratios, arms by turns (a child process)."""
    arms = ("whole", "streamed", "ahead")
    for cold in (False, True):
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        for _ in range(ROUNDS):
            for arm in arms:
                seconds[arm].append(once(folder, arm, cold))
        ratios = {
            f"{one}/{two}": [a / b for a, b in zip(seconds[one], seconds[two], strict=True)]
            for one, two in (("streamed", "whole"), ("ahead", "streamed"))
        }
        text = ", ".join(f"{arm} {statistics.median(s):.2f} s" for arm, s in seconds.items())
        text += "".join(
            f"; {name} {statistics.median(r):.2f} [{min(r):.2f}, {max(r):.2f}]"
            for name, r in ratios.items()
        )
        cores = len(os.sched_getaffinity(0))
        print(f"{cores} cores, {'cold' if cold else 'warm'}: {text}", flush=True)


def main() -> None:
    """Run everything, each part in a process of its own."""
    if len(sys.argv) > 2:
        part, folder = sys.argv[2], Path(sys.argv[1])
        times(folder) if part == "times" else memory(folder, part)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        if not (folder / "b").is_dir():
            make(folder)
        run = [sys.executable, __file__, str(folder)]
        for arm in ("whole", "streamed", "ahead"):
            subprocess.run([*run, arm], check=True)
        for prefix in ([], ["taskset", "-c", "0"]):
            subprocess.run([*prefix, *run, "times"], check=True)


if __name__ == "__main__":
    main()
