"""Small studies: one with a stub in place of models, and one with tiny real models and tasks."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from evomerge.study import study as study_module
from evomerge.study.config import StudyConfig
from evomerge.study.journal.codec import parse_all, to_json
from evomerge.study.journal.journal import iterate
from evomerge.study.journal.record import Record
from evomerge.study.study import JOURNAL, Study
from evomerge.study.workers.answers.codec import (
    read_answer,
    read_request,
    write_answer,
    write_request,
)
from evomerge.study.workers.pool import Pool, Reply
from evomerge.study.workers.requests import Request

PYTHON = sys.executable  # before a stub takes its place
STUB_SPACE: dict[str, Any] = {
    "merge_method": "task_arithmetic",
    "models": [
        {"model": "*", "parameters": {"weight": {"low": 0, "high": 1.5, "knots": 2}}},
    ],
}


def stub_document(**sections: Any) -> dict[str, Any]:
    """A study file for the stub worker: 16 trials in generations of 4, 2 tasks, 2 models.

    Args:
        sections: Take the place of keys; mappings are merged with what is there.
    """
    document: dict[str, Any] = {
        "base_model": "base",
        "models": ["one", "two"],
        "space": STUB_SPACE,
        "evaluate": {
            "tasks": [{"name": "stub_choice"}, {"name": "stub_write"}],
            "batch_size": 2,  # so shards have 16 items, and every candidate several of them
            "items": {"per_generation": 12},
        },
        "search": {
            "optimizer": "catcma",
            "trials": 16,
            "population": 4,
            "seed": 1,
            "random_share": 0.0,
        },
        "workers": {"count": 2},
    }
    for key, value in sections.items():
        section = document.get(key)
        merged = isinstance(section, dict) and isinstance(value, dict) and key != "space"
        document[key] = {**section, **value} if merged else value
    return document


def stub_config(**sections: Any) -> StudyConfig:
    """The same as a configuration."""
    return StudyConfig.from_dict(stub_document(**sections), Path("/"))


def go(run: Path, **sections: Any) -> dict[str, Any]:
    """Run a stub study to its end; returns its verdict."""
    return to_json(Study(stub_config(**sections), run).confirm())


def record(run: Path) -> Record:
    """The state of a run, from its journal."""
    return Record.from_events(parse_all(events(run)))


def stub_executable(folder: Path) -> str:
    """A program that stands where the pool expects Python, and is a stub worker instead."""
    program = folder / "stub-worker"
    script = Path(__file__).with_name("stub_worker.py")
    program.write_text(f'#!/bin/sh\nexec "{PYTHON}" -SE "{script}"\n')
    program.chmod(0o755)
    return str(program)


class StubWorkers:
    """Puts stub workers in the place of real ones, and says how they behave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path):
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(sys, "executable", stub_executable(folder))
        self(**{})

    def __call__(self, **settings: Any) -> None:
        """Workers started from now on have these settings, see `stub_worker.DEFAULTS`."""
        self._monkeypatch.setenv("STUB_WORKER", json.dumps(settings, default=str))


class InProcessPool(Pool):
    """One real worker in this process: for tests that need the evaluator but not its process."""

    def __init__(self, config: StudyConfig, _log: Path):
        super().__init__(config)
        self.size = 1
        self._worker: Any = None
        self._replies: list[Reply] = []

    def submit(self, worker: int, request: Request) -> None:
        """Answer at once."""
        from evomerge.study.workers.evaluator import Evaluator
        from evomerge.study.workers.start import start

        if self._worker is None:
            self._worker = start(json.loads(json.dumps(self.config.to_dict())))
        answer = self._worker  # or the failure to make one
        if isinstance(answer, Evaluator):
            text = json.dumps(write_request(request))
            answer = answer.handle(read_request(json.loads(text)))
        text = json.dumps(write_answer(answer))
        self._replies.append(Reply(worker, read_answer(json.loads(text))))

    def poll(self, timeout: float) -> list[Reply]:
        """Hand out what is there."""
        del timeout
        replies, self._replies = self._replies, []
        return replies

    def restart(self, worker: int) -> None:
        """Nothing is ever lost here."""
        raise AssertionError(f"worker {worker} cannot be lost")

    def close(self) -> None:
        """Nothing to end."""


# -- what a run has done ---------------------------------------------------------------------------


def events(run: Path, name: str | None = None) -> list[dict[str, Any]]:
    """A run's events, or those of one name."""
    documents = list(iterate(run / JOURNAL))
    return [event for event in documents if name is None or event["event"] == name]


def substance(run: Path) -> dict[str, Any]:
    """What a run did and found, without times, workers and the order in which work was finished."""
    return substance_of(events(run))


def substance_of(journal: list[dict[str, Any]]) -> dict[str, Any]:
    """The same of a journal's events."""
    said: dict[str, list[Any]] = {}
    outcomes: dict[str, list[Any]] = {}
    for event in journal:
        kind = event["event"]
        if kind == "outcomes":
            for row in event["rows"]:
                outcomes[f"{event['digest']} {event['mode']} {row[0]} {row[1]}"] = row[2:]
        elif kind not in ("journal", "opened"):
            if kind == "verdict":  # its command names the run folder
                event = {k: v for k, v in event.items() if k != "reproduce"}
            if kind == "study":
                config = {k: v for k, v in event["config"].items() if k != "workers"}
                event = {**event, "config": config}
            said.setdefault(kind, []).append({k: v for k, v in event.items() if k != "time"})
    said.get("failed", []).sort(key=lambda event: (event["trial"], event["phase"]))
    return {**said, "outcomes": outcomes}


def paid(run: Path) -> Counter[str]:
    """How often each (recipe, mode, item) stands in the journal."""
    return paid_in(events(run))


def paid_in(journal: list[dict[str, Any]]) -> Counter[str]:
    """The same of a journal's events."""
    return Counter(
        f"{event['digest']} {event['mode']} {row[0]} {row[1]}"
        for event in journal
        if event["event"] == "outcomes"
        for row in event["rows"]
    )


# -- a study with real models ----------------------------------------------------------------------

WORDS = [f"w{i}" for i in range(24)]
N_DOCUMENTS = 50
WIDTH = 32


@cache
def real_study(folder: Path) -> Path:
    """Write tiny models, tasks that a merge of them does best, and a study file; return that."""
    folder.mkdir(parents=True, exist_ok=True)
    write_models(folder / "zoo")
    write_tasks(folder / "zoo" / "hidden", folder / "tasks")
    document = {
        "base_model": "zoo/base",
        "models": ["zoo/one", "zoo/two"],
        "space": STUB_SPACE,
        "evaluate": {
            "tasks": [{"name": "small_choice"}, {"name": "small_write", "metric": "exact_match"}],
            "include_path": ["tasks"],
            "batch_size": 8,
            "items": {"per_generation": 16},
        },
        "search": {"optimizer": "cmaes", "trials": 16, "population": 4, "seed": 3},
        "workers": {"backend": "local", "count": 1, "device": "cpu"},
        "output": {"dtype": "float32"},
    }
    study = folder / "study.yaml"
    study.write_text(json.dumps(document, indent=1))  # JSON is YAML
    return study


def copied_study(source: Path, home: Path, **keys: Any) -> Path:
    """Write the small study of a folder into another, with keys changed; return the study file."""
    for folder in ("zoo", "tasks"):
        shutil.copytree(source / folder, home / folder)
    document = json.loads((source / "study.yaml").read_text())
    document["search"]["trials"] = 4
    for key, value in keys.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) else value
    file = home / "study.yaml"
    file.write_text(json.dumps(document))
    return file


def fresh_model(seed: int) -> Any:
    """A model of two layers that reads `WORDS`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(WORDS) + 3,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def write_models(zoo: Path) -> None:
    """A base, two experts around it, and (hidden) the merge of both that sets the answers."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = fresh_model(0)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deltas = []
    for seed in (1, 2):
        draw = torch.Generator().manual_seed(seed)
        deltas.append(
            {n: 0.12 * torch.randn(t.shape, generator=draw) for n, t in sorted(base.items())}
        )
    mixtures = {"base": (0, 0), "one": (1, 0), "two": (0, 1), "hidden": (1.2, 0.5)}
    for folder, weights in mixtures.items():
        state = {
            name: tensor + sum(w * delta[name] for w, delta in zip(weights, deltas, strict=True))
            for name, tensor in base.items()
        }
        model.load_state_dict(state)
        model.save_pretrained(zoo / folder)
        tokenizer().save_pretrained(zoo / folder)


def tokenizer(words: tuple[str, ...] = tuple(WORDS)) -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *words])}
    rules = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    rules.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=rules, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def write_tasks(model_folder: Path, tasks: Path, documents_of_each: int = N_DOCUMENTS) -> None:
    """A multiple-choice task and one to write, whose answers the model gives."""
    import torch
    from transformers import LlamaForCausalLM

    tasks.mkdir(parents=True)
    model = LlamaForCausalLM.from_pretrained(model_folder).eval()
    draw = torch.Generator().manual_seed(7)
    documents = []
    for _ in range(documents_of_each):
        prompt = (torch.randint(len(WORDS), (6,), generator=draw) + 3).tolist()
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([prompt])).logits[0, -1, 3:]
        ranked = scores.argsort(descending=True).tolist()
        choices = sorted(ranked[:4])
        documents.append(
            {
                "prompt": " ".join(WORDS[token - 3] for token in prompt),
                "choices": [WORDS[i] for i in choices],
                "gold": choices.index(ranked[0]),
                "answer": WORDS[ranked[0]],
            }
        )
    data = tasks / "documents.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    common = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
    )
    common += 'test_split: test\ndoc_to_text: "{{prompt}}"\nmetadata: {version: 1.0}\n'
    (tasks / "small_choice.yaml").write_text(
        f"task: small_choice\n{common}output_type: multiple_choice\n"
        'doc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    (tasks / "small_write.yaml").write_text(
        f"task: small_write\n{common}output_type: generate_until\n"
        'doc_to_target: "{{answer}}"\n'
        'generation_kwargs: {until: ["<eos>"], max_gen_toks: 1, do_sample: false}\n'
        "filter_list: [{name: trim, filter: [{function: remove_whitespace},"
        " {function: take_first}]}]\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )


@cache
def finished_study(folder: Path) -> Path:
    """Run that study to its end, uninterrupted, in this process; return the run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "open_pool", InProcessPool)
        Study(StudyConfig.from_yaml(real_study(folder)), folder / "run").confirm()
    return folder / "run"
