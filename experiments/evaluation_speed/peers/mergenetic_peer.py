"""Mergenetic 0.1.1 scoring random candidates; run by mergekit-evolve's environment plus Mergenetic.

    python mergenetic.py JOB.json

Reads lines from stdin, scores one random candidate for each, and prints `{"seconds", "score"}`.
Its merger and its lm-eval evaluator are called as its problems call them, once per task.
"""

import json
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch

# It imports, unconditionally, lm_eval's vLLM class and libraries that nothing here calls.
stand_in = types.ModuleType("lm_eval.models.vllm_causallms")
stand_in.VLLM = type("VLLM", (), {})
sys.modules[stand_in.__name__] = stand_in
fasttext = types.ModuleType("fasttext")
fasttext.FastText = type("FastText", (), {})
sys.modules.setdefault("fasttext", fasttext)
# `import git` is only asked for the folder of a repository.
git = types.ModuleType("git")
git.exc = types.SimpleNamespace(InvalidGitRepositoryError=type("Missing", (Exception,), {}))


def _no_repository(*_: object, **__: object) -> None:
    raise git.exc.InvalidGitRepositoryError


git.Repo = _no_repository
sys.modules["git"] = git
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

from lm_eval.models.huggingface import HFLM  # noqa: E402
from mergenetic.evaluation.lm_harness import LmHarnessEvaluator  # noqa: E402
from mergenetic.merging.taskarithmetic_merger import TaskArithmeticMerger  # noqa: E402


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # progress bars and prints go elsewhere
    torch.set_num_threads(1)
    scratch = Path(job["scratch"])
    merger = TaskArithmeticMerger(
        "run", job["base"], job["models"], str(scratch), str(scratch), "bfloat16"
    )
    generator = np.random.default_rng(0)
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        weights = generator.uniform(0, 1, len(job["models"]))
        began = time.perf_counter()
        folder = merger.merge_model_from_configuration(
            merger.create_individual_configuration(weights)
        )
        model = HFLM(str(folder), dtype="bfloat16", device="cpu", batch_size=32)
        scores = [
            np.mean(
                LmHarnessEvaluator(
                    task,
                    job["metric"],
                    list(range(job["limit"])),
                    additional_templates_folder=job["include_path"],
                    batch_size=32,
                ).evaluate(model)
            )
            for task in job["tasks"]
        ]
        seconds = time.perf_counter() - began
        line = {"seconds": seconds, "score": float(np.sum(scores))}
        print(json.dumps(line), file=answers, flush=True)


if __name__ == "__main__":
    main()
