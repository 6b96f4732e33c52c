"""Makes the demo zoo: a base, four experts and their tasks, trained from scratch.

Every folder is written atomically, and reused by a later call with the same settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from evomerge.core.errors import UserError
from evomerge.demo.children import Children, Step
from evomerge.demo.folder import checksum, is_complete, only_builder, written_whole
from evomerge.demo.language import WORDS
from evomerge.demo.mixtures import EXPERTS, base_mixture, expert_mixture, readable
from evomerge.demo.settings import Settings
from evomerge.demo.tasks import TASKS, documents_digest, write_tasks

FORMAT = 1  # raised when training changes in a way that the settings do not show
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Zoo:
    """The folders of a zoo.

    Attributes:
        directory: The folder that holds everything.
        base: The base model's folder.
        experts: Name (``reverse``) to folder (``expert-reverse``).
        tasks: Folder of lm-eval task YAML, to be passed as ``include_path``.
        task_names: The seven generation tasks; each has a ``_ll`` and a ``_mc`` form too.
    """

    directory: Path
    base: Path
    experts: Mapping[str, Path]
    tasks: Path
    task_names: tuple[str, ...]


def make_zoo(
    directory: str | Path,
    *,
    seed: int = 0,
    architecture: str = "llama",
    hidden: int = 64,
    layers: int = 6,
    base_steps: int = 700,
    expert_steps: int = 120,
    processes: int = 2,
    progress: Callable[[Step], None] | None = None,
) -> Zoo:
    """Train the models that `directory` lacks, and return the folders.

    At the default size this takes about a minute and a half on two idle cores. One seed gives
    bit-identical weights on one machine.

    Args:
        directory: Where the zoo goes; made if it does not exist.
        seed: Seeds initial weights and training data. The tasks' documents never change.
        architecture: ``llama``, ``qwen3`` or ``gpt2``. The first two make a zoo worth searching
            on; GPT-2's learned positions need more steps than the default, so its zoo is for
            tests of its layout.
        hidden: Width of the residual stream, a multiple of 32.
        layers: Number of layers.
        base_steps: Training steps of the base.
        expert_steps: Training steps of each expert.
        processes: How many experts train at once, one thread each.
        progress: Called with a `Step` from time to time, never from two threads at once; see
            `print_step`.

    Raises:
        UserError: A setting is out of range, or a folder of that name is not a zoo's.
    """
    if processes < 1:
        raise UserError(f"expected `processes >= 1`, but got {processes}")
    settings = Settings(
        seed=seed,
        architecture=architecture,
        hidden=hidden,
        layers=layers,
        base_steps=base_steps,
        expert_steps=expert_steps,
    )
    directory = Path(directory)
    zoo = Zoo(
        directory=directory,
        base=directory / "base",
        experts={name: directory / f"expert-{name}" for name in EXPERTS},
        tasks=directory / "tasks",
        task_names=tuple(f"demo_{task}" for task in TASKS),
    )
    with only_builder(directory), Children(progress) as children:
        _write_tasks(zoo.tasks)
        _train_base(children, zoo, settings)
        with ThreadPoolExecutor(processes) as pool:
            jobs = [
                pool.submit(_train_expert, children, zoo, name, settings) for name in zoo.experts
            ]
            children.wait(jobs)
    return zoo


def print_step(step: Step) -> None:
    """Print a plain line per report, for `make_zoo`'s `progress`."""
    state = "reused" if step.done else "starts"
    if step.loss is not None:
        state = f"loss {step.loss:.3f}"
    print(f"{step.model:>8}  step {step.done:4d} of {step.steps}  {state}", flush=True)


def _write_tasks(folder: Path) -> None:
    made_from = {"format": FORMAT, "home": str(folder.absolute()), "documents": documents_digest()}
    if not is_complete(folder, made_from):
        with written_whole(folder, made_from) as partial:
            write_tasks(partial, folder)


def _train_base(children: Children, zoo: Zoo, settings: Settings) -> None:
    job = {"model": "base", "settings": asdict(settings)}
    _train(children, "base", job, settings.base_steps, zoo.base, _base_made_from(settings))


def _train_expert(children: Children, zoo: Zoo, name: str, settings: Settings) -> None:
    made_from = {
        "base": _base_made_from(settings),
        "base_sha256": checksum(zoo.base / WEIGHTS),
        "expert_steps": settings.expert_steps,
        "lesson": readable(expert_mixture(name)),
    }
    job = {"model": name, "start": str(zoo.base.absolute()), "settings": asdict(settings)}
    _train(children, name, job, settings.expert_steps, zoo.experts[name], made_from)


def _train(
    children: Children,
    model: str,
    job: Mapping[str, object],
    steps: int,
    folder: Path,
    made_from: Mapping[str, object],
) -> None:
    if is_complete(folder, made_from):
        children.report(Step(model, steps, steps, None))
        return
    with written_whole(folder, made_from) as partial:
        children.report(Step(model, 0, steps, None))
        children.train(model, {**job, "folder": str(partial.absolute())})


def _base_made_from(settings: Settings) -> dict[str, object]:
    made_from = asdict(settings)
    del made_from["expert_steps"]  # a base is the same whatever its experts do
    return {
        "format": FORMAT,
        **made_from,
        "words": "".join(WORDS),
        "lesson": readable(base_mixture()),
    }
