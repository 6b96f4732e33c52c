"""Puts the Python file of a model with routed layers beside its weights, and names it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.loaded.config import resolve_config

MODULE = "modeling_routed"


def with_own_code(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the config.json to write; for routed layers under a model_type of its own.

    Under that name transformers refuses the model unless trust_remote_code is set. Under the
    dense one's it would load the base in silence, without what is routed.
    """
    if "routed" not in config:
        return dict(config)
    source = Path(__file__).parents[2] / "evaluate" / "routed" / f"{MODULE}.py"
    (folder / source.name).write_bytes(source.read_bytes())
    dense, architecture = type(resolve_config(config)).__name__, config["architectures"][0]
    return {
        **config,
        "model_type": f"routed_{config['model_type']}",
        "architectures": [f"Routed{architecture}"],
        "auto_map": {
            "AutoConfig": f"{MODULE}.Routed{dense}",
            "AutoModelForCausalLM": f"{MODULE}.Routed{architecture}",
        },
    }


def code_sentence(folder: Path) -> str:
    """Say of a written model that it brings our file, and which; nothing where it does not."""
    file = folder / f"{MODULE}.py"
    if not file.is_file():
        return ""
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return (
        f"No architecture of transformers has such layers: load it with `trust_remote_code`, "
        f"which runs its file {file.name} (SHA-256 `{sha256}`, evomerge's own)."
    )
