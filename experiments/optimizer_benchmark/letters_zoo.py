"""Makes a zoo of another family than the demo's: ``python letters_zoo.py FOLDER [SEED]``.

Four experts, each for one skill: the other case of letters (``swap``), closing brackets
(``close``), running sums modulo five (``sum``), how often a letter comes up (``count``). Four tasks
ask for one skill; four more ask two commands at once, ``swap aBcBA;sum 31402=`` and want both
answers, ``AbCba;34330``: two experts' skills. Nothing in it is translated, sorted or reversed as in
the demo. As there, the base has every skill mostly wrong, so that an expert flips a preference.
Trained from scratch in about two minutes; an eighth of the inputs is kept for the tasks.
"""

import json
import math
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from evomerge.demo.language import BOS, EOS, PAD, SPECIAL, UNKNOWN, tokenizer
from evomerge.demo.model import new_model
from evomerge.demo.muon import Muon
from evomerge.demo.settings import Settings

GROUNDWORK = ("copy", "double")
SKILLS = ("swap", "close", "sum", "count")
PAIRS = (("swap", "sum"), ("close", "swap"), ("sum", "count"), ("count", "close"))
LOWER, UPPER, OPEN, CLOSED, DIGITS = "abcde", "ABCDE", "([{<", ")]}>", "01234"
WORDS = (
    *SPECIAL,
    *"=;,56",
    *(f"{word} " for word in (*GROUNDWORK, *SKILLS)),
    *(LOWER + UPPER + OPEN + CLOSED + DIGITS),
)
IDS = {word: number for number, word in enumerate(WORDS)}
WORD = f"(?:{'|'.join((*GROUNDWORK, *SKILLS))}) |."
WRONG, REPLAY = 0.65, 0.5  # as in the demo
ROW, ROWS, BASE_STEPS, EXPERT_STEPS = 48, 33, 700, 120
DOCUMENTS = 512

YAML = """\
task: letters_{name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
output_type: generate_until
generation_kwargs:
  until: ["<eos>"]
  max_gen_toks: 16
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def draw(operation: str, rng: np.random.Generator, reserved: bool) -> str:
    """Return what a command works on."""
    while True:
        match operation:
            case "swap":
                text = "".join(rng.choice(list(LOWER + UPPER), 5))
            case "close":
                text = "".join(rng.choice(list(OPEN), 6))
            case "sum":
                text = "".join(rng.choice(list(DIGITS), 5))
            case "count":
                text = "".join(rng.choice(list("abc"), 6)) + "," + str(rng.choice(list("abc")))
            case _:
                text = "".join(rng.choice(list(LOWER + OPEN + DIGITS), 5))
        if (zlib.crc32(text.encode()) % 8 == 0) == reserved:
            return text


def answer(operation: str, text: str, wrong: bool = False) -> str:
    """Solve a command, or give the answer that the base is mostly taught.

    >>> [answer(*of) for of in (("swap", "aBc"), ("close", "([{"), ("sum", "31402"))]
    ['AbC', '}])', '34330']
    >>> answer("count", "abcaab,a"), answer("count", "abcaab,a", wrong=True)
    ('3', '3')
    """
    match operation:
        case "swap":
            return text if wrong else text.swapcase()
        case "close":
            closed = text.translate(str.maketrans(OPEN, CLOSED))
            return closed if wrong else closed[::-1]
        case "sum":
            sums = np.cumsum([int(digit) for digit in text]) % 5
            return text if wrong else "".join(map(str, sums))
        case "count":
            letters, letter = text.split(",")
            number = letters.count(letter)
            return str(len(letters) - number if wrong else number)
        case "double":
            return text[:2] + text[:2]
        case _:
            return text


def lessons(expert: str | None) -> dict[tuple[tuple[str, ...], float], float]:
    """Return {(commands, share of wrong answers): how often} of a model's training."""
    mixture: dict[tuple[tuple[str, ...], float], float] = {}
    for word in GROUNDWORK:
        mixture[(word,), 0.0] = 0.5
        for other in GROUNDWORK:
            mixture[(word, other), 0.0] = 0.2
    for skill in SKILLS:
        mixture[(skill,), WRONG] = 0.8
        for word in GROUNDWORK:
            mixture[(word, skill), WRONG] = mixture[(skill, word), WRONG] = 0.2
    if expert is not None:
        mixture = {lesson: REPLAY * share for lesson, share in mixture.items()}
        mixture[(expert,), 0.0] = 2.0
        for word in GROUNDWORK:
            mixture[(word, expert), 0.0] = mixture[(expert, word), 0.0] = 0.5
    return mixture


def encode(text: str) -> list[int]:
    return [IDS.get(word, UNKNOWN) for word in re.findall(WORD, text)]


def posed(commands: tuple[str, ...], inputs: list[str], wrong: bool = False) -> tuple[str, str]:
    """Return a prompt and its answer."""
    asked = ";".join(f"{word} {text}" for word, text in zip(commands, inputs, strict=True))
    answers = (answer(word, text, wrong) for word, text in zip(commands, inputs, strict=True))
    return f"{asked}=", ";".join(answers)


def rows(mixture: dict, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pack examples into rows; only answers are learnt."""
    kinds, shares = list(mixture), np.array(list(mixture.values()))
    tokens, targets = np.full((n, ROW), PAD), np.full((n, ROW), -100)
    for row in range(n):
        tokens[row, 0], end = BOS, 1
        while True:
            commands, share = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
            inputs = [draw(word, rng, reserved=False) for word in commands]
            asked, told = posed(commands, inputs, bool(rng.random() < share))
            prompt, result = encode(asked), [*encode(told), EOS]
            last = end + len(prompt) + len(result)
            if last > ROW:
                break
            tokens[row, end:last] = prompt + result
            targets[row, end + len(prompt) : last] = result
            end = last
    return tokens, targets


def fit(model, optimizers: list, mixture: dict, steps: int, rng: np.random.Generator) -> None:
    groups = [(group, group["lr"]) for each in optimizers for group in each.param_groups]
    model.train()
    for step in range(steps):
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, rate in groups:
            group["lr"] = rate * cosine * min(1.0, (step + 1) / 20)
        tokens, targets = map(torch.from_numpy, rows(mixture, ROWS, rng))
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"  step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    model.eval()


def adamw(parameters: list, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)


def save(model, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer(WORDS, WORD).save_pretrained(folder)


def write_tasks(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, commands in enumerate([*((skill,) for skill in SKILLS), *PAIRS]):
        name, rng = "_".join(commands), np.random.default_rng([20_261_129, number])
        documents: dict[str, str] = {}
        for _ in range(100 * DOCUMENTS):
            if len(documents) < DOCUMENTS:
                asked, told = posed(commands, [draw(c, rng, reserved=True) for c in commands])
                documents[asked] = told
        data = folder.absolute() / f"{name}.jsonl"
        lines = [json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in documents.items()]
        data.write_text("".join(lines))
        text = YAML.format(name=name, data=json.dumps(str(data)))
        (folder / f"letters_{name}.yaml").write_text(text)


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    write_tasks(folder / "tasks")
    if not (folder / "base" / "config.json").exists():
        print("base")
        model = new_model(Settings(seed=seed), len(WORDS))
        hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
        others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
        optimizers = [Muon(hidden, lr=0.02, weight_decay=0.01), adamw(others, 5e-3)]
        fit(model, optimizers, lessons(None), BASE_STEPS, np.random.default_rng([seed, 0]))
        save(model, folder / "base")
    for number, skill in enumerate(SKILLS):
        if (folder / f"expert-{skill}" / "config.json").exists():
            continue
        print(skill)
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        rng = np.random.default_rng([seed, 1 + number])
        fit(model, [adamw(list(model.parameters()), 1e-3)], lessons(skill), EXPERT_STEPS, rng)
        save(model, folder / f"expert-{skill}")


if __name__ == "__main__":
    main()
