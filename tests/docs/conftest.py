"""A folder as the documentation's reader has it: models, tasks, a study file, a finished run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from evomerge.cli import main, preflight
from evomerge.study import study as study_module
from evomerge.study.analysis import landscape
from tests.study.small_study import InProcessPool, real_study

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """study.yaml, zoo/, tasks/ and runs/one, a finished search of eight trials."""
    made = real_study(tmp_path_factory.getbasetemp() / "real-study").parent
    home = tmp_path_factory.mktemp("reader")
    for folder in ("zoo", "tasks"):
        (home / folder).symlink_to(made / folder)
    page = DOCS / "how-to" / "mergekit.md"
    for name, text in re.findall(r"```\w+\n# (\S+\.yml)\n(.*?)```", page.read_text(), re.S):
        (home / name).write_text(text)
    document = json.loads((made / "study.yaml").read_text())
    document["search"]["trials"] = 8
    document["evaluate"]["items"]["per_generation"] = 8
    (home / "study.yaml").write_text(json.dumps(document))
    (home / "prose.txt").write_text("A text to read.\n")
    preference = {"prompt": "Say a word:", "chosen": " w1", "rejected": " w2"}
    (home / "safe.jsonl").write_text(json.dumps(preference) + "\n")
    document["search"]["seed"] = 7
    (home / "other-seed.yaml").write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(study_module, "open_pool", InProcessPool)
        assert main(["search", "study.yaml", "runs/one"]) == 0
    return home


@pytest.fixture
def at_home(reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder as the working directory, with a worker in this process."""
    home = shutil.copytree(reader, tmp_path / "reader", symlinks=True)
    monkeypatch.chdir(home)
    monkeypatch.setattr(study_module, "open_pool", InProcessPool)
    monkeypatch.setattr(preflight, "open_pool", InProcessPool)
    monkeypatch.setattr(landscape, "open_pool", InProcessPool)
    return home
