"""Runs operations in C++: kernels.cpp, compiled on this machine when first needed.

The library is kept in the cache folder under a digest of its source, the compiler and the
processor. It is used only if it gives the bits of `BlockedKernels` on a sample of every operation,
so that a result never depends on whether a worker has a compiler. The environment variable
``EVOMERGE_KERNELS=torch`` does without it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from evomerge.core.atomic import beside, write_text
from evomerge.merge.kernels.blocked import BlockedKernels
from evomerge.merge.kernels.delta import Delta
from evomerge.merge.kernels.operation import Dropping, Kernels, Kind, Operation, Part
from evomerge.merge.kernels.ranking import EVERYTHING, MOST, STRIDE, Bracket, Edge
from evomerge.merge.kernels.statistics import cache_folder
from evomerge.methods.deltas import Aggregate, l1_norm
from evomerge.methods.random import CounterRandom

_LOG = logging.getLogger("evomerge")
_SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = [
    *("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC"),
    "-ffp-contract=off",  # a product and a sum are rounded one by one, as PyTorch rounds them
    *("-fno-math-errno", "-fno-trapping-math"),  # else some loops stay scalar
]
_MOST_MODELS = 32  # kernels.cpp: MOST_MODELS
_STORED = {torch.float32: 0, torch.bfloat16: 1}
# The structs of kernels.cpp: an Edge is qII, a Source is Qq.
_TASK = struct.Struct("=QqqQqqiiiiiffI")
_MODEL = struct.Struct("=QqqIIqIIqIIiiIIfffi")
_ALL, _TOP, _BAND, _RANDOM = range(4)
_NONE, _MULTIPLY, _DIVIDE = range(3)
_RESULTS: dict[Kind, int] = {
    "weighted": 0,
    "disjoint": 1,
    "linear": 2,
    "pair": 3,
    "scaled": 4,
    "pruned": 5,
}
_AGGREGATES: dict[Aggregate, int] = {"mean": 0, "sum": 1, "max": 2}
_OPEN = Bracket(EVERYTHING, EVERYTHING)


class NativeKernels:
    """Kernels of a compiled library, for float32 and bfloat16 on the CPU."""

    def __init__(self, library: ctypes.CDLL):
        self._merge = library.evomerge_merge
        self._undecided = library.evomerge_undecided
        self._norm = library.evomerge_norm
        self._undecided.restype = ctypes.c_int64
        self._norm.restype = ctypes.c_float
        self._sums_alike = True
        self._sums_alike = _sums_alike(self)

    def run(self, operation: Operation, out: Tensor) -> bool:
        """Write the result into `out`, flat; false if these kernels cannot."""
        if out.dtype not in _STORED:
            return False
        try:
            task, models = _packed(operation, out)
        except (struct.error, OverflowError, KeyError):  # a number beyond float32, another dtype
            return False
        misfit = self._merge(task, models)
        assert not misfit, "a ranking is of other tensors"
        return True

    def between(self, delta: Delta, bracket: Bracket) -> Tensor | None:
        """Return the keys of elements that a bracket leaves open; ``None``: cannot."""
        keys = torch.empty(STRIDE, dtype=torch.int64)
        try:
            task, model = _packed(_of_delta(delta, Part(delta.model, bracket=bracket)), keys)
        except KeyError:
            return None
        count = self._undecided(task, model, _address(keys), ctypes.c_int64(STRIDE))
        assert count < STRIDE, f"{count} elements between two keys of a ranking"
        return keys[:count]

    def norm(self, delta: Delta, part: Part) -> Tensor | None:
        """Return a delta's L1 norm under a mask with closed brackets; ``None``: cannot."""
        if not self._sums_alike:
            return None
        try:
            task, model = _packed(_of_delta(delta, part), delta.model)
        except KeyError:
            return None
        return torch.tensor(self._norm(task, model), dtype=torch.float32)


def _of_delta(delta: Delta, part: Part) -> Operation:
    return Operation("pruned", delta.base, [part], delta.working)


def _packed(operation: Operation, out: Tensor) -> tuple[bytes, bytes]:
    """Return an operation as the structs of kernels.cpp; KeyError for what they do not hold."""
    if operation.working == torch.float16 or len(operation.parts) > _MOST_MODELS:
        raise KeyError(operation.working)
    base, count = operation.base, operation.parts[0].model.numel()
    if count >= MOST:
        raise KeyError(count)
    task = _TASK.pack(
        out.data_ptr(),
        _STORED.get(out.dtype, 0),
        count,
        0 if base is None else base.data_ptr(),
        0 if base is None else _STORED[base.dtype],
        len(operation.parts),
        operation.working == torch.bfloat16,
        _RESULTS[operation.kind],
        operation.divisor is not None or operation.normalize,
        operation.consensus == "count",
        _AGGREGATES[operation.aggregate],
        1.0 if operation.divisor is None else operation.divisor,
        operation.lambda_,
        0,
    )
    return task, b"".join(map(_packed_part, operation.parts))


def _packed_part(part: Part) -> bytes:
    mask, keys, density, bracket = _ALL, (0, 0), 0.0, _OPEN
    if part.dropping is not None:
        mask, density = _RANDOM, part.dropping.density
        keys = part.dropping.random.keys(part.dropping.model_index)
    elif part.bracket is not None:
        mask, bracket = _TOP if part.outlier is None else _BAND, part.bracket
    last, possible = bracket.sure, bracket.maybe
    outlier = part.outlier or last
    scaling = _NONE
    if part.scale != 1:
        scaling = _DIVIDE if part.divides else _MULTIPLY
        if not math.isfinite(part.scale):
            raise KeyError(part.scale)
    return _MODEL.pack(
        part.model.data_ptr(),
        _STORED[part.model.dtype],
        *(last.at, last.bits, 0),
        *(possible.at, possible.bits, 0),
        *(outlier.at, outlier.bits, 0),
        mask,
        scaling,
        *keys,
        density,
        part.scale,
        part.weight,
        bracket.missing,
    )


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class FastestKernels:
    """Compiled kernels for what they know, and PyTorch's for the rest."""

    def __init__(self, kernels: Sequence[Kernels]):
        self._kernels = kernels

    def run(self, operation: Operation, out: Tensor) -> bool:
        """Write the result into `out`, flat."""
        return any(kernels.run(operation, out) for kernels in self._kernels)

    def between(self, delta: Delta, bracket: Bracket) -> Tensor | None:
        """Return the keys of elements that a bracket leaves open; ``None``: cannot."""
        answers = (kernels.between(delta, bracket) for kernels in self._kernels)
        return next((keys for keys in answers if keys is not None), None)

    def norm(self, delta: Delta, part: Part) -> Tensor | None:
        """Return a delta's L1 norm under a mask with closed brackets; ``None``: cannot."""
        answers = (kernels.norm(delta, part) for kernels in self._kernels)
        return next((norm for norm in answers if norm is not None), None)


def kernels_for(device: torch.device) -> Kernels:
    """Return the fastest kernels there are for tensors on a device."""
    native = native_kernels() if device.type == "cpu" else None
    return FastestKernels([native, BlockedKernels()]) if native else BlockedKernels()


@cache
def native_kernels() -> NativeKernels | None:
    """Return the compiled kernels; ``None`` where there are none, for a reason logged once."""
    if os.environ.get("EVOMERGE_KERNELS") == "torch":
        return None
    try:
        kernels = NativeKernels(_loaded(compiler()))
        if not _agrees(kernels):
            raise OSError("they round otherwise than PyTorch does here")
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        said = getattr(error, "stderr", None) or str(error)
        _LOG.warning(
            "merging runs in PyTorch, about ten times slower: the C++ kernels cannot be used: %s",
            " ".join(str(said).split())[:300],
        )
        return None
    return kernels


def compiler() -> str:
    """Return the path of a C++ compiler: ``$CXX``, g++ or c++; OSError if there is none."""
    wanted = [os.environ.get("CXX", "g++"), "c++"]
    path = next(filter(None, map(shutil.which, wanted)), None)
    if path is None:
        raise OSError("there is no C++ compiler")
    return path


def _loaded(compiler: str) -> ctypes.CDLL:
    """The library in memory; where the cache folder cannot be written, no file of it stays."""
    try:
        return ctypes.CDLL(str(library(compiler)))
    except _NoCacheError:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "kernels.so"
            _compile(compiler, file)
            return ctypes.CDLL(str(file))  # which needs its file no more


class _NoCacheError(OSError):
    """The cache folder cannot be written."""


def library(compiler: str) -> Path:
    """Return the compiled library, from the cache folder if it is there and whole.

    Raises:
        OSError: It cannot be kept there, or the compiler cannot be run.
        subprocess.SubprocessError: The compiler fails.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30)
    known = [_SOURCE.read_bytes(), " ".join(_FLAGS).encode(), version.stdout, _processor()]
    name = hashlib.sha256(b"\0".join(known)).hexdigest()
    file = cache_folder() / "kernels" / f"{name}.so"
    written = file.with_suffix(".sha256")
    if file.is_file() and written.is_file() and written.read_text() == _sha256(file):
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = beside(file)
    except OSError as error:
        raise _NoCacheError(str(error)) from error
    try:
        _compile(compiler, partial)
        write_text(written, _sha256(partial))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
    return file


def _compile(compiler: str, file: Path) -> None:
    command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(file)]
    subprocess.run(command, capture_output=True, check=True, timeout=300, text=True)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _processor() -> bytes:
    """Name what ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kinds = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        return "\n".join(sorted(kinds)).encode()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()


def _sums_alike(kernels: NativeKernels) -> bool:
    """Return whether norms are PyTorch's to the bit; their order is not promised."""
    sample = torch.arange(300_007).sin()
    alike = (
        torch.equal(norm, l1_norm(model))
        for model in (sample[:7], sample[:777], sample)
        if (norm := kernels.norm(Delta(None, model, torch.float32), Part(model))) is not None
    )
    return all(alike)


def _agrees(kernels: NativeKernels) -> bool:
    """Return whether every kind of operation gives the bits of `BlockedKernels` on a sample."""
    draw = CounterRandom(0, "sample")
    base, *models = (draw.uniform(i, (777,)) - 0.5 for i in range(4))
    models = [base + 0.1 * model for model in models]
    bracket = Bracket(Edge(0x3C800000, 2**31), Edge(0x3C800000, 2**31))  # 1/64
    parts = [
        Part(models[0], 0.7, bracket, scale=1.3),
        Part(models[1], -0.4, dropping=Dropping(draw, 1, 0.6), scale=0.6, divides=True),
        Part(models[2], 0.9, bracket, outlier=Edge(0x3D200000, 20)),
    ]
    plain = [Part(part.model, part.weight) for part in parts]
    trimmed = [part._replace(bracket=bracket) for part in plain]  # a loop of its own
    kinds: list[tuple[Kind, list[Part]]] = [
        (kind, plain if kind in ("linear", "pair", "scaled") else parts) for kind in _RESULTS
    ]
    for stored in _STORED:
        for kind, chosen in [*kinds, ("disjoint", trimmed)]:
            few = {"pair": 2, "scaled": 1, "pruned": 1}.get(kind, 3)
            operation = Operation(
                kind,
                base.to(stored) if kind in ("weighted", "disjoint") else None,
                [part._replace(model=part.model.to(stored)) for part in chosen[:few]],
                torch.float32,
                divisor=None if kind == "disjoint" else 1.7,
                normalize=kind == "disjoint",
                lambda_=1.1,
            )
            ours, theirs = torch.empty(777, dtype=stored), torch.empty(777, dtype=stored)
            if not (kernels.run(operation, ours) and BlockedKernels().run(operation, theirs)):
                return False
            if ours.view(torch.uint8).tolist() != theirs.view(torch.uint8).tolist():
                return False
    return True
