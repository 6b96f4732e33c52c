"""How often a search along gradients announces an improvement where there is none.

    python experiments/verdict/gradients.py WORK [STUDIES] [NOISE]

Each study has a base and three parents that are copies of it with independent noise, so that none
is better than another but by chance, and two tasks whose right answers are another model's: the
base's with a larger change. Adam searches a weight for each tensor and parent; the product's own
race and verdict follow. Afterwards the winner and every parent answer 4,000 new questions, which
says what was true. One JSON line a study in WORK/studies.jsonl, where it also resumes.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[2]))

from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.study import Study
from tests.study import small_study

WORDS, FRESH, STEPS, CHANGE = len(small_study.WORDS), 4_000, 10, 0.05
DOCUMENTS = 120  # of each task


def write_zoo(folder: Path, seed: int, noise: float) -> None:
    """A base, three copies of it with noise, and the model whose answers are right."""
    draw = torch.Generator().manual_seed(seed)
    model = small_study.fresh_model(seed)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sizes = {"base": 0.0, "one": noise, "two": noise, "three": noise, "right": CHANGE}
    for name, size in sizes.items():
        state = {
            key: tensor + size * torch.randn(tensor.shape, generator=draw)
            for key, tensor in base.items()
            if key != "lm_head.weight"  # tied
        }
        model.load_state_dict(state, strict=False)
        model.save_pretrained(folder / name)
        small_study.tokenizer().save_pretrained(folder / name)


@torch.no_grad()
def answers(model: Path, prompts: torch.Tensor) -> torch.Tensor:
    """Return scores of all words after each prompt; (prompts, words)."""
    return LlamaForCausalLM.from_pretrained(model).eval()(input_ids=prompts).logits[:, -1, 3:]


def truly(model: Path, right: torch.Tensor, prompts: torch.Tensor) -> float:
    """The mean of both tasks: the best of the right model's four likeliest words, or of all."""
    scores = answers(model, prompts)
    best = right.argmax(-1)
    four = right.topk(4).indices.sort(-1).values
    chosen = four.gather(1, scores.gather(1, four).argmax(-1, keepdim=True))[:, 0]
    return float(((chosen == best).float().mean() + (scores.argmax(-1) == best).float().mean()) / 2)


def study(folder: Path, seed: int, noise: float) -> dict:
    write_zoo(folder / "zoo", seed, noise)
    small_study.write_tasks(folder / "zoo" / "right", folder / "tasks", DOCUMENTS)
    document = {
        "base_model": "zoo/base",
        "models": ["zoo/one", "zoo/two", "zoo/three"],
        "space": "task_arithmetic_by_tensor",
        "evaluate": {
            "tasks": [{"name": "small_choice"}, {"name": "small_write", "metric": "exact_match"}],
            "include_path": ["tasks"],
            "items": {"per_generation": 32},
        },
        "search": {"optimizer": "adam", "trials": STEPS, "seed": seed},
        "workers": {"backend": "local", "count": 1, "device": "cpu"},
        "output": {"dtype": "float32", "save_model": True},
    }
    verdict = Study(StudyConfig.from_dict(document, folder), folder / "run").confirm()
    draw = torch.Generator().manual_seed(10**6 + seed)
    prompts = torch.randint(WORDS, (FRESH, 6), generator=draw) + 3
    right = answers(folder / "zoo" / "right", prompts)
    parents = {
        n: truly(folder / "zoo" / n, right, prompts) for n in ("base", "one", "two", "three")
    }
    return {
        "seed": seed,
        "noise": noise,
        "shown": verdict.improvement_shown,
        "winner": verdict.winner.kind,
        "raced": verdict.race_winner.kind,
        "winner_true": round(truly(folder / "run" / "best" / "model", right, prompts), 4),
        "parents_true": {name: round(value, 4) for name, value in parents.items()},
    }


def main() -> None:
    work, studies = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 60
    noise = float(sys.argv[3]) if len(sys.argv) > 3 else 0.01
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    study_module.open_pool = small_study.InProcessPool
    file = work / "studies.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(line["seed"], line["noise"]) for line in lines}
    for seed in range(studies):
        if (seed, noise) in done:
            continue
        folder = work / f"study-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        line = study(folder, seed, noise)
        shutil.rmtree(folder)
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
