"""`evomerge completion SHELL` and `evomerge env`: for a shell, and for a report of a mistake."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from evomerge.cli.display.lines import show

_FOLDERS = {"RUN", "DIR", "OUT"}  # arguments with these names are folders; other paths are files


def _methods() -> list[str]:
    from evomerge import methods

    return list(methods.names())


def _optimizers() -> list[str]:
    from evomerge.optimizers import registry

    return registry.names()


def _spaces() -> list[str]:
    from evomerge.recipe.space.shipped import shipped

    return list(shipped())


# Arguments that take any text, and names of what comes with evomerge to complete them with.
_NAMES: dict[tuple[str, str], Callable[[], list[str]]] = {
    ("methods", "name"): _methods,
    ("optimizers", "name"): _optimizers,
    ("spaces", "name"): _spaces,
    ("demo", "optimizer"): _optimizers,
    ("demo", "space"): _spaces,
    ("log", "to"): lambda: ["tensorboard", "mlflow", "wandb"],
    ("search", "log_to"): lambda: ["tensorboard", "mlflow", "wandb"],
}


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("completion", help="a shell's completion script")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.set_defaults(run=run)

    env = commands.add_parser("env", help="versions and devices, for a report of a mistake")
    env.set_defaults(run=show_environment)


def show_environment(_arguments: argparse.Namespace) -> None:
    """Print what decides results here, and nothing that tells who or where."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from evomerge.study.versions import versions

    lines = [(name, text) for name, text in versions().items()]
    for package in ("ray", "safetensors", "huggingface_hub", "vllm", "optuna_dashboard", "peft"):
        try:
            lines.append((package, version(package)))
        except PackageNotFoundError:
            lines.append((package, "none"))
    lines.append(("system", f"{platform.system()} {platform.release()} {platform.machine()}"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines.append(("cores", f"{cores}, {memory / 1e9:.0f} GB of memory"))
    lines.append(("torch's CUDA", str(torch.version.cuda or "none")))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(gpus):
        about = torch.cuda.get_device_properties(i)
        lines.append((f"GPU {i}", f"{about.name}, {about.total_memory / 1e9:.0f} GB"))
    if not gpus:
        lines.append(("GPUs", "none"))
    for name in ("EVOMERGE_CACHE", "EVOMERGE_KERNELS", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"):
        lines.append(
            (
                name,
                "set"
                if name == "EVOMERGE_CACHE" and name in os.environ
                else os.environ.get(name, "not set"),
            )
        )
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        show(f"{name:<{width}}  {text}")


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    print(completion_script(arguments.parser, arguments.shell))


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script of a parser, for bash, zsh or fish."""
    import shtab

    for command in [parser, *_commands(parser)]:
        for action in command._actions:
            names = _NAMES.get((command.prog.removeprefix("evomerge "), action.dest))
            if names is not None:
                action.choices = names()
            if action.type is not None and getattr(action.type, "__name__", "") == "Path":
                kind = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE
                action.complete = kind  # type: ignore[attr-defined]  # where shtab looks for it
    return str(shtab.complete(parser, shell=shell))


def _commands(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    return [
        command
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for command in action.choices.values()
    ]
