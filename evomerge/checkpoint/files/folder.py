"""Finds a model's folder, downloading a hub id once, and reads its config.json."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files.companions import ALL
from evomerge.checkpoint.files.document import check_file, read_json
from evomerge.checkpoint.names import HUB_ID
from evomerge.core.errors import UserError

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"
# Tokenizer files that libraries read beside tokenizer.json.
TOKENIZER_SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
_MAX_CONFIG_BYTES = 4 * 2**20
_INSPECTED = {
    *(CONFIG, ADAPTER_CONFIG, INDEX, "tokenizer.json", *TOKENIZER_SETTINGS),
    *("vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json"),
}
_READ = (
    *(".json", ".jinja", ".model", ".txt", ".safetensors", ".py", ".md", ".spm", ".tiktoken"),
    *(".codes", ".tokenizer"),
)
_READ_FOLDERS = ("additional_chat_templates",)


def resolve(model: str | Path) -> Path:
    """Return the folder of a model: itself, or the local copy of a hub id.

    Raises:
        UserError: There is none, or one of its files is a pipe or a link that leads out of it.
    """
    path = Path(os.path.expanduser(model))  # which leaves an unknown user's ~name as it is
    if path.is_dir():
        check_entries(path)
        return path
    if path.exists():
        raise UserError(f"{model}: expected a model folder but it is a file")
    if not HUB_ID.fullmatch(str(model)):
        raise UserError(f"{model}: no such folder, and not a hub id of the form org/name")
    from huggingface_hub import snapshot_download

    name, _, revision = str(model).partition("@")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.safetensors", "*.json", "*.py", "README.md", *ALL],
            )
        )
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        raise UserError(f"{model}: {_refusal(name, revision, error)}") from None


def _refusal(name: str, revision: str, error: Exception) -> str:
    """Say why the hub gave nothing, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    login = "set HF_TOKEN to a token of an account that may read it, or run `hf auth login`"
    if isinstance(error, GatedRepoError):
        return f"the hub's repository {name} is gated: accept its terms on its page, then {login}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no such folder, and the hub shows no repository {name}: look at the name; if it is "
            f"private, {login}"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"the hub's repository {name} has no revision {revision!r}: expected a branch, a tag, "
            "a commit, or refs/pr/NUMBER"
        )
    if isinstance(error.__cause__, HfHubHTTPError):  # the client hides every other answer
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return "no such folder, not downloaded yet, and " + (
            "HF_HUB_OFFLINE is set: unset it to download"
            if constants.HF_HUB_OFFLINE
            else "the hub cannot be reached: look at the network, and at HF_ENDPOINT and proxies"
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"no such folder, and the hub could not deliver it: {reason}"


def cached(model: str) -> Path | None:
    """Return this machine's copy of a hub id, which may lack files; ``None`` without one."""
    if not HUB_ID.fullmatch(model) or Path(os.path.expanduser(model)).exists():
        return None
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except Exception:  # as above
        return None


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.json of a model folder.

    Raises:
        UserError: It is missing, outside the folder, no JSON object, or names code on the hub.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(
            f"{folder}: expected a Hugging Face model folder, but it has no config.json"
        )
    config = read_json(file, _MAX_CONFIG_BYTES)
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected a JSON object")
    for key, name in _implementations(config):
        if "/" in name:  # transformers would fetch that repository of the hub and run it
            raise UserError(
                f"{file}: {key}: expected the name of an implementation, such as sdpa or eager, "
                f"but got {name[:80]!r}, which is code on the hub; remove the key"
            )
    return config


def _implementations(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text below a key like ``attn_implementation``, with that key, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _implementations(item, name if "_implementation" in name else key)
    elif isinstance(value, list):
        for item in value:
            yield from _implementations(item, key)
    elif key and isinstance(value, str):
        yield key, value


def generation_digest(folder: Path) -> str:
    """A digest of how a model folder says that answers are generated; empty if it says nothing."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return ""
    settings = read_json(file)
    if isinstance(settings, dict):
        settings.pop("transformers_version", None)  # it only says who wrote the file
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def check_entries(folder: Path) -> None:
    """Refuse pipes, devices, and links that lead out; the libraries that read a folder follow them.

    Raises:
        UserError: Names the first such entry among those that anything reads.
    """
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        is_read = entry.name.endswith(_READ) or entry.name in _READ_FOLDERS
        is_plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
        if is_read and not is_plain:
            check_file(Path(entry.path))


def stamps(folder: Path) -> dict[str, list[int]]:
    """Return inode, bytes, and times of writing and of change of every file that is inspected.

    A file that is written over or replaced has another stamp.
    """
    stamped = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            if entry.name in _INSPECTED or entry.name.endswith(".safetensors"):
                with contextlib.suppress(OSError):  # a link to nothing: who reads it says so
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        times = status.st_mtime_ns, status.st_ctime_ns
                        stamped[entry.name] = [status.st_ino, status.st_size, *times]
    return stamped
