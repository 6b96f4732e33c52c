"""A child reads what came from outside, with limits, before the process itself parses it.

The headers and JSON files of a model folder are read once by a child (`inspector`) to which the
kernel gives little memory and time. One that it does not stand is the user's mistake, told in one
line. What it stands, this process reads with the same functions, so it takes no more. Files are
known by inode, size and times: one that changes is inspected again.

Folders whose files are small together have no child: at worst they take what starting it takes.
"""

from __future__ import annotations

import contextlib
import json
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.checkpoint.files.document import read_json
from evomerge.checkpoint.files.folder import TOKENIZER_SETTINGS, stamps
from evomerge.checkpoint.sandbox.child import MEGABYTES, PROCESSOR_SECONDS, SECONDS
from evomerge.checkpoint.vocabulary import TokenSum, read_tokenizer, sum_of
from evomerge.core.errors import UserError

# So much JSON takes 7 MB and 16 ms at worst, less than a child does.
_SMALL = 2**18
_WAITED = 90.0  # seconds a folder: the child gives up before
_START = """
import sys
sys.path.insert(0, sys.argv[1])
from evomerge.checkpoint.sandbox.child import main
main(sys.argv[2:])
"""
_LATE = {getattr(signal, name, None) for name in ("SIGALRM", "SIGXCPU")}
_known: dict[str, dict[str, Any]] = {}  # what was found in each folder, by its name


def inspect(folders: Iterable[Path]) -> None:
    """Have folders inspected, those together that were not yet, or whose files changed.

    Raises:
        UserError: A file is damaged, or takes more memory or time than any model's; names it.
    """
    new = {}
    for folder in folders:
        now = stamps(folder)
        if _known.get(str(folder), {}).get("stamps") != now:
            if _json_bytes(folder, now) < _SMALL:
                _known[str(folder)] = {"stamps": now}
            else:
                new[str(folder)] = folder
    if new:
        for name, found in _asked(list(new)).items():
            if found.get("refused"):
                raise UserError(found["refused"])
            if found["stamps"] != stamps(new[name]):
                raise UserError(
                    f"{name}: its files change while they are read; wait for the writer"
                )
            _known[name] = found


def tokens_of(folder: Path) -> TokenSum | None:
    """Return a digest that tells a folder's vocabulary from others; ``None`` without a
    tokenizer.json.

    Raises:
        UserError: The file is not what the tokenizers library writes.
    """
    inspect([folder])
    found = _known[str(folder)]
    if "broken" in found:
        raise UserError(found["broken"])
    if "tokens" not in found:
        tokenizer = read_tokenizer(folder)
        found["tokens"] = None if tokenizer is None else sum_of(tokenizer.vocabulary)
    return found["tokens"] and TokenSum(*found["tokens"])


def check_settings(folder: Path) -> None:
    """Read the JSON files that libraries read of a tokenizer beside tokenizer.json.

    Raises:
        UserError: One is no JSON, or takes more than any model's.
    """
    inspect([folder])
    for name in TOKENIZER_SETTINGS:
        if (folder / name).is_file():
            read_json(folder / name)


def inspected(folders: Iterable[Path]) -> dict[str, Any]:
    """Return the findings on folders as plain data; for `remember` in another process."""
    return {name: _known[name] for name in map(str, folders) if name in _known}


def remember(found: Mapping[str, Any]) -> None:
    """Take over what another process found; it holds where files are the same here."""
    _known.update(found)


def _json_bytes(folder: Path, files: Mapping[str, Sequence[int]]) -> int:
    """Return an upper bound of the bytes that are parsed of these files."""
    total = 0
    for name, (_, size, *_) in files.items():
        if name.endswith(".safetensors"):
            with contextlib.suppress(OSError), (folder / name).open("rb") as stream:
                prefix = stream.read(8)
                size = min(size, struct.unpack("<Q", prefix)[0]) if len(prefix) == 8 else 0
        total += size
    return total


def _asked(folders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The child's answers by folder; without any where no child can be started."""
    root = Path(__file__).parents[3]
    late = False
    try:
        child = subprocess.Popen(
            [
                sys.executable or "",
                "-I",
                "-S",
                "-c",
                _START,
                root,
                *folders,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return _without_child(folders, error.strerror or str(error))
    with child:
        try:
            told, noise = child.communicate(timeout=_WAITED * len(folders))
        except subprocess.TimeoutExpired:
            child.kill()
            (told, noise), late = child.communicate(), True
        except BaseException:  # Ctrl-C
            child.kill()
            raise
    lines = [json.loads(line) for line in told[: told.rfind(b"\n") + 1].splitlines()]
    last = noise.decode(errors="replace").strip().rpartition("\n")[2]
    if not lines and not late:
        return _without_child(folders, last or f"it ended with code {child.returncode}")
    if child.returncode == 1 and not last.startswith("MemoryError"):
        raise RuntimeError(f"the child that reads {folders} failed: {last}")
    answers = [line for line in lines if "stamps" in line]
    if len(answers) < len(folders) and not (lines and "refused" in lines[-1]):
        reading = [line["reading"] for line in lines if "reading" in line]
        late = late or -child.returncode in _LATE
        raise _too_much(reading[-1] if reading else folders[0], child.returncode, late)
    return dict(zip(folders, answers, strict=False))  # fewer, if one was refused


def _too_much(file: str, code: int, late: bool) -> UserError:
    """Word the refusal of a file that exceeded the child's limits."""
    told = f"longer than {PROCESSOR_SECONDS} s (or {SECONDS} s by the clock)"
    if not late:
        told = f"more than {MEGABYTES} MB" + (f" (signal {-code})" if code < 0 else "")
    return UserError(
        f"{file}: expected a file that a process of its own can read, but that took {told}, which "
        "no known model's does; get it anew from where it comes from, or leave it out"
    )


def _without_child(folders: Sequence[str], why: str) -> dict[str, dict[str, Any]]:
    """Read on in this process, where parts are counted and no kernel sets limits; and say so."""
    warnings.warn(
        f"cannot start a process that reads model files first ({why}): they are read in this one, "
        "where their sizes and parts are limited, but not its memory and time",
        RuntimeWarning,
        stacklevel=3,
    )
    return {folder: {"stamps": stamps(Path(folder))} for folder in folders}
