"""mergekit-evolve 0.1.5 scoring random candidates; run by its own environment's Python.

    python mergekit_evolve.py JOB.json

Reads one word a line from stdin, the mode (`disk-1`, `disk-32` or `memory`), scores one random
candidate, and prints `{"seconds", "score"}`. Its evaluator classes are called directly: no Ray, no
start-up, which is to its advantage. As installed it fails on import; what had to be changed to run
it at all is changed here, in this process, and listed where it happens.
"""

import functools
import json
import os
import sys
import time
import types

import lm_eval
import numpy as np
import torch

# 1. It needs lm_eval's vLLM class to exist even where vLLM is not used.
stand_in = types.ModuleType("lm_eval.models.vllm_causallms")
stand_in.VLLM = type("VLLM", (), {})
sys.modules[stand_in.__name__] = stand_in
import lm_eval.models  # noqa: E402

lm_eval.models.vllm_causallms = stand_in
# 2. On a CPU it empties a cache that torch.cpu does not have.
torch.cpu.empty_cache = lambda: None
# 3. It does not tell lm_eval which device to use.
lm_eval.simple_evaluate = functools.partial(lm_eval.simple_evaluate, device="cpu")

from mergekit.evo.actors import InMemoryMergeEvaluator, OnDiskMergeEvaluator  # noqa: E402
from mergekit.evo.config import EvolMergeConfiguration  # noqa: E402
from mergekit.evo.genome import ModelGenome  # noqa: E402
from mergekit.graph import Task  # noqa: E402
from mergekit.io.tasks import ReturnTensor  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402

# 4. Its in-memory mode raises a TypeError: a field is declared narrower than what it is given.
ReturnTensor.__annotations__["tensor_task"] = Task
ReturnTensor.model_fields["tensor_task"].annotation = Task
ReturnTensor.model_rebuild(force=True)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # progress bars and prints go elsewhere
    torch.set_num_threads(1)
    config = EvolMergeConfiguration.model_validate(
        {
            "genome": {
                "models": job["models"],
                "base_model": job["base"],
                "merge_method": job["method"],
                "layer_granularity": 1,
            },
            "tasks": [{"name": name, "metric": f"{job['metric']},none"} for name in job["tasks"]],
            "limit": job["limit"],
            "apply_chat_template": False,
            "fewshot_as_multiturn": False,
        }
    )
    genome = ModelGenome(config.genome)
    options = MergeOptions(cuda=False, device="cpu", copy_tokenizer=True)
    manager = lm_eval.tasks.TaskManager(include_path=job["include_path"])
    kinds = {
        "disk-1": (OnDiskMergeEvaluator, None),
        "disk-32": (OnDiskMergeEvaluator, 32),
        "memory": (InMemoryMergeEvaluator, None),
    }
    made = {}
    generator = np.random.default_rng(0)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        mode = line.strip()
        if mode not in made:
            kind, batch_size = kinds[mode]
            plain = kind.__ray_metadata__.modified_class  # the class under ray.remote
            made[mode] = plain(
                config,
                genome,
                options,
                model_storage_path=job["scratch"],
                batch_size=batch_size,
                task_manager=manager,
            )
        shape = genome.initial_genotype().shape
        candidate = torch.tensor(generator.uniform(0, 1, shape), dtype=torch.float32)
        began = time.perf_counter()
        score = made[mode].evaluate_genotype(candidate)["score"]
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "score": float(score)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
