"""Names the base among some models: by what they say, and by how close their weights are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch

from evomerge.checkpoint.architecture import locate
from evomerge.cli.init.candidates import Candidate
from evomerge.core.errors import UserError

_SAMPLED_TENSORS, _SAMPLED_ELEMENTS = 12, 2**20
_SIBLINGS = 0.35  # mean cosine of deltas above which the middle model looks like a sibling
_BASE_WORDS = {"base", "pretrain", "pretrained", "foundation", "raw"}


@dataclass(frozen=True)
class Lineage:
    """The base of a study, and what is merged onto it.

    Attributes:
        base: Its folder or hub id.
        models: The fine-tunes and adapters.
        why: How the base was told from the others, in words.
        doubt: A warning, where that is not sure; else empty.
        left_out: Why a model takes no part, by name.
        distances: Of each model to the base: relative to the base's own norm.
    """

    base: str
    models: tuple[Candidate, ...]
    why: str
    doubt: str
    left_out: dict[str, str]
    distances: dict[str, float]


def lineage(candidates: Sequence[Candidate], base: str | None = None) -> Lineage:
    """Choose the base and the models of a study.

    Args:
        candidates: Models and adapters.
        base: The base, where the user names it: one of them, or another folder or hub id.

    Raises:
        UserError: Fewer than two models are left, or none can be the base.
    """
    full = [one for one in candidates if not one.is_adapter]
    full, left_out = _of_one_kind(full, base)
    on_disk = [one for one in full if one.files is not None]
    sample = _Sample(on_disk) if len(on_disk) > 1 else None
    if sample is not None:
        copies = sample.copies()
        left_out |= copies
        full = [one for one in full if one.name not in copies]
    adapters = [one for one in candidates if one.is_adapter]
    name, why, doubt = _base(full, adapters, base, sample)
    at_base = next((one for one in full if one.name == name), None)
    models = tuple(one for one in [*full, *adapters] if one.name != name)
    if not models or (len(models) == 1 and not models[0].is_adapter and at_base is None):
        raise UserError(
            f"expected a base and at least one fine-tune of it, but got {name} alone; name more "
            "models, or the base with --base"
        )
    distances = {}
    if sample is not None and at_base is not None and at_base.files is not None:
        for one in models:
            if one.files is not None:
                distances[one.name] = sample.relative(at_base, one)
    return Lineage(name, models, why, doubt, left_out, distances)


def _of_one_kind(
    models: Sequence[Candidate], base: str | None
) -> tuple[list[Candidate], dict[str, str]]:
    """The models of the most frequent architecture (of the given base's), and the rest."""
    on_disk = [one for one in models if one.files is not None]
    if not on_disk:
        return list(models), {}
    kinds = Counter(one.kind for one in on_disk)
    given = next((one for one in on_disk if one.name == base), None)
    chosen = given.kind if given is not None else kinds.most_common(1)[0][0]
    like = next(one for one in on_disk if one.kind == chosen)
    left_out = {}
    for one in on_disk:
        if one.kind != chosen:
            other = one.architecture
            if other == like.architecture:
                other += ", but tensors of other shapes"
            left_out[one.name] = f"{other}; the others are {like.architecture}"
    return [one for one in models if one.name not in left_out], left_out


def _base(
    full: Sequence[Candidate],
    adapters: Sequence[Candidate],
    given: str | None,
    sample: _Sample | None,
) -> tuple[str, str, str]:
    """The base's name, why it is this one, and a doubt."""
    if given is not None:
        match = next((one.name for one in full if _same(one.name, given)), given)
        return match, "as given by --base", ""
    said = Counter(name for one in [*adapters, *full] for name in one.says_base)
    for name, count in said.most_common():
        mentioned = next((one.name for one in full if _same(one.name, name)), None)
        if mentioned is not None:
            return mentioned, _named_by(count), ""
    on_disk = [one for one in full if one.files is not None]
    if sample is not None and len(on_disk) >= 3:
        return _middle(on_disk, sample)
    if said:
        name, count = said.most_common(1)[0]
        return name, _named_by(count), ""
    if not full:
        raise UserError(
            "expected the base of the adapters: none of their adapter_config.json names one; "
            "name it with --base"
        )
    named = [one for one in full if _BASE_WORDS & set(re.split(r"[^a-z0-9]+", one.name.lower()))]
    if len(named) == 1:
        return named[0].name, "by its name", ""
    doubt = (
        f"two models do not show which is the base: {full[0].name} was taken because it comes "
        "first; change base_model if it is another"
        if len(full) == 2
        else f"these are not on this machine yet: {full[0].name} was taken because it was named "
        "first; change base_model if it is another"
    )
    return full[0].name, "the first one", doubt


def _middle(models: Sequence[Candidate], sample: _Sample) -> tuple[str, str, str]:
    """The model in the middle of the others, and how sure it is that they were made from it.

    Of independent fine-tunes a, b of a base the deltas are nearly orthogonal. Seen from the
    sibling m instead, a - m and b - m share -m, and their cosine is near 1/2.
    """
    count = len(models)
    squares = [[sample.square(one, other) for other in models] for one in models]
    middle = min(range(count), key=lambda i: sum(squares[i]))
    others = [i for i in range(count) if i != middle]
    cosines = [
        (squares[middle][i] + squares[middle][j] - squares[i][j])
        / (2 * (squares[middle][i] * squares[middle][j]) ** 0.5)
        for i, j in combinations(others, 2)
    ]
    cosine = sum(cosines) / len(cosines)
    name = models[middle].name
    why = f"nearest to all others; seen from it their deltas have a mean cosine of {cosine:.2f}"
    if cosine <= _SIBLINGS:
        return name, why, ""
    doubt = (
        f"none of these models looks like the base of the others: {name} is in the middle, but "
        f"seen from it the deltas have a mean cosine of {cosine:.2f}, as those of siblings have; "
        "if you have the base, name it in base_model and add this one to models"
    )
    return name, why, doubt


class _Sample:
    """Equal parts of the weights of several models of one kind, in float32, flattened."""

    def __init__(self, models: Sequence[Candidate]):
        shapes = models[0].tensors
        matrices = [
            name
            for name, info in sorted(shapes.items())
            if len(info.shape) >= 2
            and locate(name).component not in ("embedding", "head", "vision")
            and all(name in one.tensors and one.tensors[name].shape == info.shape for one in models)
        ]
        step = max(1, len(matrices) // _SAMPLED_TENSORS)
        names = matrices[::step][:_SAMPLED_TENSORS]
        self._models = models
        self._parts = {
            one.name: torch.cat(
                [one.tensor(name).flatten()[:_SAMPLED_ELEMENTS].float() for name in names]
                or [torch.zeros(1)]
            )
            for one in models
        }

    def square(self, one: Candidate, other: Candidate) -> float:
        """The squared distance of two models."""
        difference = self._parts[one.name] - self._parts[other.name]
        return float(difference.double().square().sum())

    def relative(self, base: Candidate, other: Candidate) -> float:
        """The distance of two models over the norm of the first."""
        norm = float(self._parts[base.name].double().norm())
        return self.square(base, other) ** 0.5 / norm if norm else 0.0

    def copies(self) -> dict[str, str]:
        """Say of each model with an earlier one's weights whose they are."""
        originals: list[Candidate] = []
        copies: dict[str, str] = {}
        for one in self._models:
            twin = next((o for o in originals if self.square(o, one) == 0), None)
            if twin is None:
                originals.append(one)
            else:
                copies[one.name] = f"the same weights as {twin.name}"
        return copies


def _same(name: str, said: str) -> bool:
    """Return whether a folder or hub id is what another model's card calls its base."""
    if name == said or name.partition("@")[0] == said:
        return True
    folder, path = Path(name), Path(said)
    if folder.is_dir() and path.is_dir():
        return folder.resolve() == path.resolve()
    last = {folder.name.lower(), folder.name.lower().replace("--", "/").replace("_", "/")}
    return bool({path.name.lower(), said.lower()} & last)


def _named_by(count: int) -> str:
    return "a model's card names it" if count == 1 else f"the cards of {count} models name it"
