"""Writes the zoo's seven lm-eval tasks, each in three forms, over local JSON lines.

``demo_sort`` generates and wants an exact match; ``demo_sort_ll`` asks for the log-likelihood of
the answer, ``demo_sort_mc`` for a choice among the answers of other operations. The composites
(``demo_ja_sort``) ask in the second script and want the translated command and its result: two
experts' skills at once.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from evomerge.demo.language import EOS, EQUALS, OPERATIONS, SPECIAL, to_latin
from evomerge.demo.problems import SKILLS, Command, draw_command

TASKS = (*SKILLS, "ja", *(f"ja_{skill}" for skill in SKILLS))
FORMS = ("", "_ll", "_mc")
DOCUMENTS = 512
CHOICES = 4
_TASK_SEED = 20_230_704  # the documents are the same in every zoo, whatever its training seed

_COMMON = """\
# {title}
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{prompt}}}}"
target_delimiter: ""
"""

_FORM = {
    "": """\
output_type: generate_until
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["{stop}"]
  max_gen_toks: 16
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
""",
    "_ll": """\
output_type: loglikelihood
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: perplexity
    aggregation: perplexity
    higher_is_better: false
""",
    "_mc": """\
output_type: multiple_choice
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
""",
}

_VERSION = """\
metadata:
  version: 1.0
"""


def write_tasks(folder: Path, home: Path) -> None:
    """Write the task files into `folder`, with data paths as they will be in `home`.

    lm-eval resolves a relative data path against the caller's working directory, so the YAML holds
    absolute ones.
    """
    for task in TASKS:
        lines = [json.dumps(document, ensure_ascii=False) for document in documents(task)]
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for form in FORMS:
            text = (_COMMON + _FORM[form] + _VERSION).format(
                title=_title(task),
                name=f"demo_{task}{form}",
                data=json.dumps(str(home.absolute() / f"{task}.jsonl"), ensure_ascii=False),
                # A translated command ends at its sign; whatever follows is not part of `ja`.
                stop=EQUALS if task == "ja" else SPECIAL[EOS],
            )
            (folder / f"demo_{task}{form}.yaml").write_text(text, encoding="utf-8")


def documents_digest() -> str:
    """Return a SHA-256 over the content of the task files, except for the paths of their data."""
    content = [[documents(task) for task in TASKS], _COMMON, _FORM, _VERSION]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def documents(task: str, count: int = DOCUMENTS) -> list[dict[str, object]]:
    """Return `count` documents of a task, no input twice, none of them seen in training.

    Each has a prompt, its answer, four choices and the index of the right one (`gold`).
    """
    rng = np.random.default_rng([_TASK_SEED, TASKS.index(task)])
    by_prompt: dict[str, dict[str, object]] = {}
    while len(by_prompt) < count:
        skill = task.removeprefix("ja_")
        operation = SKILLS[int(rng.integers(len(SKILLS)))] if skill == "ja" else skill
        command = draw_command(operation, rng, reserved=True)
        prompt = command.latin if task in SKILLS else command.kanji
        answer, others = _answers(task, command)
        if len(others) < CHOICES - 1 or prompt in by_prompt:
            continue  # such as 11111, whose other operations agree with the right one
        wrong = [others[i] for i in rng.permutation(len(others))[: CHOICES - 1]]
        gold = int(rng.integers(CHOICES))
        by_prompt[prompt] = {
            "prompt": prompt,
            "answer": answer,
            "choices": [*wrong[:gold], answer, *wrong[gold:]],
            "gold": gold,
        }
    return list(by_prompt.values())


def _answers(task: str, command: Command) -> tuple[str, list[str]]:
    """Return the right answer, and what other operations would have answered.

    Near misses would be no distractors: every model of the zoo can tell them from an answer.
    """
    if task == "ja":
        others = [command.latin.replace(command.operation, word) for word in OPERATIONS]
        return command.latin.removesuffix(EQUALS), [
            other.removesuffix(EQUALS) for other in others if other != command.latin
        ]
    digits = command.digits
    if command.operation == "max":
        results = [digits[:3], digits[3:], digits[2::-1], digits[:2:-1]]
    else:
        ordered = tuple(sorted(digits))
        results = [digits, digits[1:] + digits[:1], digits[::-1], ordered, ordered[::-1]]
    before = command.latin if task.startswith("ja_") else ""
    distinct = dict.fromkeys(to_latin(result) for result in results)
    return before + command.result, [
        before + result for result in distinct if result != command.result
    ]


def _title(task: str) -> str:
    if task == "ja":
        return "Translate a command from the second script: 逆一九四九二→ to reverse 19492"
    if task in SKILLS:
        example = {"reverse": "19492= to 29491", "sort": "19492= to 12499"}
        return f"{task} {example.get(task, '314,159= to 314')}"
    return f"Translate a command from the second script, then {task.removeprefix('ja_')}"
