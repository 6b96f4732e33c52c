"""`evomerge init` names the base, and writes a study that `check` accepts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint.dtypes import CODES
from evomerge.cli.init.candidates import find
from evomerge.cli.init.lineage import lineage
from evomerge.cli.init.machine import Machine, workers
from evomerge.cli.init.proposal import budget, held_out_items, tasks
from evomerge.cli.init.study_text import Proposal, study_text
from evomerge.core import yaml_file
from evomerge.core.errors import UserError
from evomerge.study.analysis.forecast import gain_shown
from evomerge.study.config import StudyConfig
from tests.cli.conftest import Run

GB = 10**9


def write(folder: Path, weights: torch.Tensor, card: str = "", **config: object) -> Path:
    """A folder with a config and one matrix of a layer."""
    folder.mkdir(parents=True)
    document = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4, **config}
    (folder / "config.json").write_text(json.dumps(document))
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({name: weights}, folder / "model.safetensors", metadata={"format": "pt"})
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return folder


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    document = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


def deltas(count: int) -> list[torch.Tensor]:
    """Matrices that are orthogonal to each other, of length 1."""
    result = []
    for i in range(count):
        matrix = torch.zeros(4, 4)
        matrix[i // 4, i % 4] = 1.0
        result.append(matrix)
    return result


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A base and three fine-tunes whose deltas are orthogonal; the base comes last by name."""
    origin, one, two, three = deltas(4)
    for name, delta in {"a": one, "b": two, "c": three, "origin": torch.zeros(4, 4)}.items():
        write(tmp_path / "models" / name, origin + delta)
    return tmp_path / "models"


def test_the_base_is_the_model_from_which_the_others_went_in_different_directions(family: Path):
    result = lineage(find([str(family)])[0])
    assert Path(result.base).name == "origin"
    assert "mean cosine of 0.00" in result.why
    assert result.doubt == ""
    assert [Path(one.name).name for one in result.models] == ["a", "b", "c"]
    assert result.distances[str(family / "a")] == pytest.approx(1.0)  # |delta| / |origin|


def test_without_the_base_its_fine_tunes_are_seen_to_be_siblings(family: Path):
    shutil.rmtree(family / "origin")
    result = lineage(find([str(family)])[0])
    # From a: (b - a)(c - a) = |a|^2 = 1, over lengths of sqrt(2) each: 1 / 2.
    assert "mean cosine of 0.50" in result.doubt


def test_a_card_says_more_than_weights_do(family: Path):
    (family / "origin" / "README.md").write_text("---\nbase_model: org/a\n---\n")
    result = lineage(find([str(family)])[0])
    assert (Path(result.base).name, result.why) == ("a", "a model's card names it")


def test_a_base_that_cards_name_and_nobody_has_is_written_as_a_hub_id(tmp_path: Path):
    for name, delta in zip("ab", deltas(2), strict=True):
        write(tmp_path / name, delta, "base_model: org/base-1b")
    result = lineage(find([str(tmp_path)])[0])
    assert (result.base, result.why) == ("org/base-1b", "the cards of 2 models name it")
    assert len(result.models) == 2


def test_of_two_models_the_one_called_base_is_it_and_else_init_says_that_it_guessed(tmp_path: Path):
    one, two = deltas(2)
    write(tmp_path / "a-chat", one)
    write(tmp_path / "b-base", two)
    result = lineage(find([str(tmp_path)])[0])
    assert (Path(result.base).name, result.doubt) == ("b-base", "")
    (tmp_path / "b-base").rename(tmp_path / "b")
    result = lineage(find([str(tmp_path)])[0])
    assert Path(result.base).name == "a-chat"
    assert "change base_model if it is another" in result.doubt


def test_adapters_name_their_base_by_folder_or_hub_id(tmp_path: Path):
    base = write(tmp_path / "base", deltas(1)[0])
    adapter(tmp_path / "lora-a", "org/base")
    adapter(tmp_path / "lora-b", str(base))
    result = lineage(find([str(tmp_path)])[0])
    assert Path(result.base) == base
    assert all(one.is_adapter for one in result.models)
    shutil.rmtree(base)
    (tmp_path / "lora-b" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "org/base"})
    )
    assert lineage(find([str(tmp_path)])[0]).base == "org/base"


def test_another_architecture_and_a_copy_are_left_out_with_the_reason(family: Path):
    shutil.copytree(family / "a", family / "z-copy")
    write(family / "other", torch.zeros(4, 4), model_type="qwen3")
    (family / "broken").mkdir()
    (family / "broken" / "config.json").write_text("{}")
    candidates, refused = find([str(family)])
    result = lineage(candidates)
    reasons = {Path(name).name: why for name, why in (result.left_out | refused).items()}
    assert sorted(reasons) == ["broken", "other", "z-copy"]
    assert reasons["z-copy"] == f"the same weights as {family / 'a'}"
    assert reasons["other"] == (
        "qwen3 with 1 layers of width 4; the others are llama with 1 layers of width 4"
    )
    assert "safetensors" in reasons["broken"]


def test_the_base_that_the_user_names_wins(family: Path):
    assert Path(lineage(find([str(family)])[0], str(family / "b")).base).name == "b"


def test_a_folder_without_models_and_a_single_model_are_refused(tmp_path: Path, family: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has a config\.json"):
        find([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="not a hub id"):
        find(["nowhere"])
    with pytest.raises(UserError, match="name more models"):
        lineage(find([str(family / "a")])[0])


def test_workers_are_as_many_as_the_memory_holds():
    eight = Machine(64, 512 * GB, (80 * GB,) * 8)
    assert (workers(eight, 14 * GB, 2).count, workers(eight, 14 * GB, 2).gpus) == (8, 1)
    # 14 GB x (3 parents + base + live model) = 70 GB of 64 that a GPU has for weights.
    assert (workers(eight, 14 * GB, 3).count, workers(eight, 14 * GB, 3).gpus) == (4, 2)
    small = Machine(8, 32 * GB, ())
    # 4 GB x 4 = 16 GB of 25.6: one worker, all cores.
    assert (workers(small, 4 * GB, 2).count, workers(small, 4 * GB, 2).threads) == (1, 8)
    assert "run out of memory" in workers(small, 40 * GB, 2).words


def test_tasks_are_the_users_then_those_in_a_folder_then_a_guess(tmp_path: Path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "mine.yaml").write_text("task: mine\nprocess_docs: !function code.run\n")
    assert tasks(["x"], [], "", [tmp_path]).names == ("x",)
    assert tasks(["x"], [], "", [tmp_path]).folders == ()
    assert tasks(["x", "mine"], [], "", [tmp_path]).folders == (folder,)
    assert tasks([], [], "", [tmp_path]).names == ("mine",)
    assert tasks([], [], "", [tmp_path]).folders == (folder,)
    guess = tasks([], [], "WizardMath-7B shisa-ja-7b code-llama", [])
    assert guess.names == ("gsm8k", "belebele_jpn_Jpan", "arc_challenge")
    assert "allow_task_code" in guess.hint


def test_every_task_that_init_guesses_is_one_of_lm_evals():
    import lm_eval.tasks

    from evomerge.cli.init.proposal import _GENERAL, _SKILLS

    root = Path(lm_eval.tasks.__file__).parent
    files = "\n".join(path.stem for path in root.rglob("*.yaml"))
    for name in [_GENERAL, *(task for _, task in _SKILLS)]:
        stem = {"medqa_4options": "medqa", "arc_challenge": "arc_challenge"}.get(name, name)
        assert re.search(rf"^{stem}$", files, re.M), name


@pytest.mark.parametrize("gain", [0.01, 0.03, 0.1, 0.3])
def test_the_items_for_a_gain_are_the_fewest_that_show_it(gain: float):
    items = held_out_items(gain, 1)
    assert gain_shown({"a": items}, {"a": 1.0}) <= gain < gain_shown({"a": items - 1}, {"a": 1.0})


def test_a_budget_chooses_the_preset_and_cuts_its_trials():
    team = workers(Machine(8, 64 * GB, ()), GB, 3)
    chosen = [
        budget(None, limit, team, 10**6, 3, True).preset for limit in ("5m", "2h", "1d", None)
    ]
    assert chosen == ["quick", "standard", "thorough", "standard"]
    assert budget("thorough", "5m", team, 10**6, 3, False).trials == 600
    # 2 x 500 M parameters x 200 tokens x 48 items + 20 x 500 M x 3 operations take 120.4 s of
    # 8 cores with 1e10 each; three fifths of an hour hold 17 such trials.
    assert budget("standard", "1h", team, 5 * 10**8, 3, False).trials == 10
    with pytest.raises(UserError, match="time span"):
        budget(None, "soon", team, 10**6, 3, True)


@pytest.mark.usefixtures("real_workers")
def test_init_writes_a_study_that_check_accepts(
    evomerge: Run, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(zoo.parent / "zoo", tmp_path / "models")
    shutil.copytree(zoo.parent / "tasks", tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    result = evomerge("init", "--for", "20m", "--gain", "0.05", "--preset", "quick")
    assert result.code == 0, result.err
    text = Path("study.yaml").read_text()
    assert text in result.out
    assert text.startswith("# yaml-language-server: $schema=evomerge.schema.json\n")
    assert json.loads(Path("evomerge.schema.json").read_text())["title"] == "evomerge study"
    config = StudyConfig.from_yaml("study.yaml")
    assert config.search.deadline == "20m"
    assert config.output.dtype in CODES
    assert max(map(len, text.splitlines())) <= 120
    checked = evomerge("check", "study.yaml")
    assert checked.code == 0, checked.err
    assert checked.out.startswith("parents ")  # the long list is behind --config
    assert "MB live model, up to " in checked.out
    assert "once, mapped from files: " in checked.out
    assert evomerge("init").err.endswith("name another file with --out, or remove it\n")


def test_a_study_that_could_not_be_checked_is_not_left_behind(
    evomerge: Run, family: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(family.parent)
    result = evomerge("init", "--tasks", "a,a")
    assert result.code == 2
    assert "one or more different tasks" in result.err
    assert not Path("study.yaml").exists()


def test_names_that_yaml_would_misread_are_quoted(family: Path, tmp_path: Path):
    family = family.rename(tmp_path / "1: odd")
    adapter(family / "lora", "org/origin")
    team = workers(Machine(8, GB, ()), 0, 1)
    proposal = Proposal(
        lineage=lineage(find([str(family)])[0]),
        tasks=tasks(["x"], [], "", []),
        budget=budget(None, None, team, 0, 1, False),
        workers=team,
        dtype="float32",
    )
    document = yaml_file.parse(study_text(proposal, tmp_path / "study.yaml"), "study.yaml")
    assert document["base_model"] == "1: odd/origin"
    assert document["models"][-1] == {"model": "1: odd/origin", "adapter": "1: odd/lora"}
