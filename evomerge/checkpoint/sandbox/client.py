"""A child process inspects untrusted model files within limits, before this process parses them.

The headers and JSON files of a model folder are read once by a child (`child`) to which the kernel
gives little memory and time. A file that exceeds them is refused with one line. Every other file
is safe to read here, since this process uses the same functions. Files are identified by inode,
size and times: one that changes is inspected again.

Folders whose files are small together need no child: they cost at most what starting it costs.
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
from evomerge.checkpoint.vocabulary import TokenSum, sum_of
from evomerge.checkpoint.vocabulary_files import read_vocabulary
from evomerge.core.errors import UserError

# JSON of this size takes 7 MB and 16 ms at worst, less than a child does.
SMALL_BYTES = 2**18
WAIT_SECONDS = 90.0  # for a folder; the child's limits end it earlier
START = """
import sys
sys.path.insert(0, sys.argv[1])
from evomerge.checkpoint.sandbox.child import main
main(sys.argv[2:])
"""
_LATE = {getattr(signal, name, None) for name in ("SIGALRM", "SIGXCPU")}
_known: dict[str, dict[str, Any]] = {}  # the findings on each folder, by its name


def inspect(folders: Iterable[Path]) -> None:
    """Inspect folders that are new or whose files changed, all of them in one child.

    Raises:
        UserError: A file is damaged, or takes more memory or time than any model's; the message
            names it.
    """
    new = {}
    for folder in folders:
        now = stamps(folder)
        if _known.get(str(folder), {}).get("stamps") != now:
            if _json_bytes(folder, now) < SMALL_BYTES:
                _known[str(folder)] = {"stamps": now}
            else:
                new[str(folder)] = folder
    if new:
        for name, finding in inspect_in_child(list(new)).items():
            if finding.get("refused"):
                raise UserError(finding["refused"])
            if finding["stamps"] != stamps(new[name]):
                raise UserError(
                    f"{name}: its files changed while being read; wait until they are written"
                )
            _known[name] = finding


def tokens_of(folder: Path) -> TokenSum | None:
    """Return a digest of a folder's vocabulary; ``None`` without a tokenizer.

    Raises:
        UserError: A file is not what its name says.
    """
    inspect([folder])
    finding = _known[str(folder)]
    if "broken" in finding:
        raise UserError(finding["broken"])
    if "tokens" not in finding:
        vocabulary = read_vocabulary(folder)
        finding["tokens"] = None if vocabulary is None else sum_of(vocabulary)
    return finding["tokens"] and TokenSum(*finding["tokens"])


def check_settings(folder: Path) -> None:
    """Check the other JSON files of a tokenizer before libraries read them.

    Raises:
        UserError: One is not JSON, or takes more memory or time than any model's.
    """
    inspect([folder])
    for name in TOKENIZER_SETTINGS:
        if (folder / name).is_file():
            read_json(folder / name)


def inspected(folders: Iterable[Path]) -> dict[str, Any]:
    """Return the findings on folders as plain data, for `remember` in another process."""
    return {name: _known[name] for name in map(str, folders) if name in _known}


def remember(findings: Mapping[str, Any]) -> None:
    """Reuse the findings of another process, for folders whose files are the same here."""
    _known.update(findings)


def forget() -> None:
    """Drop all findings, as in a new process."""
    _known.clear()


def _json_bytes(folder: Path, files: Mapping[str, Sequence[int]]) -> int:
    """Return an upper bound on the bytes of these files that are parsed."""
    total = 0
    for name, (_, size, *_) in files.items():
        if name.endswith(".safetensors"):
            with contextlib.suppress(OSError), (folder / name).open("rb") as stream:
                prefix = stream.read(8)
                size = min(size, struct.unpack("<Q", prefix)[0]) if len(prefix) == 8 else 0
        total += size
    return total


def inspect_in_child(folders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the child's findings by folder, or mere stamps where no child can be started."""
    root = Path(__file__).parents[3]
    late = False
    try:
        child = subprocess.Popen(
            [
                sys.executable or "",
                "-I",
                "-S",
                "-c",
                START,
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
            stdout, stderr = child.communicate(timeout=WAIT_SECONDS * len(folders))
        except subprocess.TimeoutExpired:
            child.kill()
            (stdout, stderr), late = child.communicate(), True
        except BaseException:  # Ctrl-C
            child.kill()
            raise
    lines = [json.loads(line) for line in stdout[: stdout.rfind(b"\n") + 1].splitlines()]
    last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
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
    """Make the error of a file that exceeded the child's limits."""
    cost = f"longer than {PROCESSOR_SECONDS} s (or {SECONDS} s by the clock)"
    if not late:
        cost = f"more than {MEGABYTES} MB" + (f" (signal {-code})" if code < 0 else "")
    return UserError(
        f"{file}: expected a file that a separate process can read, but that took {cost}, more "
        "than for any known model; download it again, or leave it out"
    )


def _without_child(folders: Sequence[str], why: str) -> dict[str, dict[str, Any]]:
    """Warn that this process has to read the files itself, without the kernel's limits."""
    warnings.warn(
        f"cannot start a process that reads model files first ({why}): they are read in this "
        "process, which limits their sizes and parts, but not memory and time",
        RuntimeWarning,
        stacklevel=3,
    )
    return {folder: {"stamps": stamps(Path(folder))} for folder in folders}
