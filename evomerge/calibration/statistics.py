"""Gives the statistics that a merge asks for: those on disk, or made now and put there."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.calibration.cost import learns_mask
from evomerge.calibration.fisher import squares
from evomerge.calibration.forecast import forecast
from evomerge.calibration.gates import gates, untrained
from evomerge.calibration.gram import BUDGET, directions, grams
from evomerge.calibration.live import live_parent
from evomerge.calibration.mask import learn
from evomerge.calibration.of_tensors import DirectionsOf, GramsOf, SquaresOf
from evomerge.calibration.requests import Sampled
from evomerge.calibration.rows import Rows, read_rows
from evomerge.calibration.store import Stored, Writer, open_stored, write
from evomerge.checkpoint.checkpoint import Checkpoint
from evomerge.checkpoint.loaded.config import resolve_config
from evomerge.core.errors import UserError
from evomerge.evaluate.model import load_tokenizer
from evomerge.merge.kernels.statistics import cache_folder
from evomerge.merge.parents.parents import Parents
from evomerge.merge.parents.provider import Statistic
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.rows import Calibration, Data

FORMAT = 1  # of what is kept; another one is made anew
SAMPLE, SAMPLE_TOKENS = 8, 1024  # rows that are run to forecast how long all take, or more if short


class Statistics:
    """Makes, keeps and opens statistics of the parents of a merge; a `Provider`.

    A statistic is known by the parent's files, the rows and how they are read: whoever needs it
    next finds it, in this process or another one of the machine.

    Args:
        parents: Whose statistics are asked for.
        folder: Where they are kept; without it ``statistics`` in this user's cache.
    """

    def __init__(self, parents: Parents, folder: Path | None = None) -> None:
        self._parents = parents
        self._folder = folder or cache_folder() / "statistics"
        self._open: dict[str, Stored] = {}
        self._trained: tuple[Recipe, Stored] | None = None  # gates of the last recipe
        self._masks: dict[Any, Stored] = {}  # by what they are asked for, which takes no hashing

    def __call__(self, model: str, kind: str, data: Data, calibration: Calibration) -> Statistic:
        """Return what a model's rows say of each tensor; see `Provider`."""
        stored = self.stored(model, kind, data, calibration)
        checkpoint = self._parents.opened[model]
        if kind == "fisher":
            return SquaresOf(stored, checkpoint)
        return (GramsOf if kind == "gram" else DirectionsOf)(stored, checkpoint)

    def stored(self, model: str, kind: str, data: Data, calibration: Calibration) -> Stored:
        """Return a statistic's content, made if there is none that is whole.

        Raises:
            UserError: The rows cannot be read, the model does not run on them, or the disk is full.
        """
        key = self._key(model, kind, data, calibration)
        return self._stored(key, lambda at: self._make(at, model, kind, data, calibration))

    def trained(self, recipe: Recipe, parents: Parents) -> Stored:
        """Return the mask or the gates of a recipe; see `stored_masks` and `stored_gates`."""
        if learns_mask(recipe):
            return self.stored_masks(recipe)
        return self.stored_gates(recipe, parents)

    def kept(self, recipe: Recipe, parents: Parents) -> Stored | None:
        """Return the mask or the gates of a recipe if they were trained before."""
        key = self._mask_key(recipe) if learns_mask(recipe) else self._gates_key(recipe, parents)
        return open_stored(self._folder / key)

    def in_folder(self, folder: Path) -> Statistics:
        """Return statistics of the same parents that are kept in another folder."""
        return Statistics(self._parents, folder)

    def gates(self, recipe: Recipe, parents: Parents) -> Callable[[str], Tensor]:
        """Return the trained gates of routed layers; see `Provider`."""
        if self._trained is None or self._trained[0] is not recipe:
            self._trained = recipe, self.stored_gates(recipe, parents)
        return self._trained[1].tensor

    def stored_gates(self, recipe: Recipe, parents: Parents) -> Stored:
        """Return the trained gates of a recipe, and what they were trained on.

        Raises:
            UserError: A model has no rows, they cannot be read, or the disk is full.
        """
        key, given = self._gates_key(recipe, parents), _gated(recipe)
        host = parents.opened[recipe.donor]

        def make(target: Path) -> None:
            config = resolve_config(host.config)
            read = [_read(recipe.donor, host, config, one, recipe.calibration) for one in given]
            with write(target) as folder:
                writer = Writer(folder)
                writer.add(gates(recipe, parents, [one.rows for one in read]))
                writer.finish(_about(*read))

        return self._stored(key, make)

    def masks(self, recipe: Recipe) -> Callable[[str, str], Tensor | None]:
        """Return what each element of a change is multiplied by; see `Provider`."""
        asked = recipe.base_model, tuple(_masked(recipe)), recipe.calibration
        if asked not in self._masks:
            self._masks[asked] = self.stored_masks(recipe)
        stored = self._masks[asked]
        places = {model: place for place, (model, _) in enumerate(_masked(recipe))}

        def mask(model: str, name: str) -> Tensor | None:
            if name not in stored:
                return None
            share: float = stored.about["shares"][name][places[model]]
            return stored.tensor(name).mul_(share)

        return mask

    def stored_masks(self, recipe: Recipe) -> Stored:
        """Return the mask that the rows of a recipe's models want, and the models' shares.

        Raises:
            UserError: The rows cannot be read, or the disk is full.
        """
        opened, models, key = self._parents.opened, _masked(recipe), self._mask_key(recipe)
        base, calibration = opened[str(recipe.base_model)], recipe.calibration

        def reader(model: str) -> Callable[[str], Tensor]:
            def tensor(name: str) -> Tensor:
                has_it = name in opened[model].tensors  # else it adds nothing there
                return (opened[model] if has_it else base).tensor(name).float()

            return tensor

        def make(target: Path) -> None:
            name = str(recipe.base_model)
            live = live_parent(name, self._parents)
            rows = [_read(name, base, live.config, data, calibration) for _, data in models]
            masks, shares = learn(
                live,
                list(base.tensors),
                reader(name),
                [reader(model) for model, _ in models],
                [row for one in rows for row in one.rows],
                calibration.steps,
                calibration.seed,
            )
            with write(target) as folder:
                writer = Writer(folder)
                writer.add(masks)
                writer.finish({**_about(*rows), "shares": shares})

        return self._stored(key, make)

    def _gates_key(self, recipe: Recipe, parents: Parents) -> str:
        document = json.dumps(untrained(recipe) | {"merges": None})
        for name, checkpoint in parents.opened.items():
            document = document.replace(json.dumps(name), json.dumps(checkpoint.fingerprint))
        rows, read = [one.sha256 for one in _gated(recipe)], recipe.calibration.to_dict()
        tokenizer = _tokenizer_digests(parents.opened[recipe.donor])
        return _hashed(FORMAT, "gates", document, rows, read, tokenizer)

    def _mask_key(self, recipe: Recipe) -> str:
        assert recipe.base_model is not None, "a method that takes a mask takes a base"
        opened = self._parents.opened
        base, read = opened[recipe.base_model], recipe.calibration.to_dict()
        models = [[opened[model].fingerprint, data.sha256] for model, data in _masked(recipe)]
        read.pop("labels", None)
        return _hashed(FORMAT, "mask", base.fingerprint, models, read, _tokenizer_digests(base))

    def _stored(self, key: str, make: Callable[[Path], object]) -> Stored:
        """Open a statistic by its key; `make` writes it where there is none that is whole."""
        if key not in self._open:
            target = self._folder / key
            stored = open_stored(target)
            if stored is None:
                make(target)
                stored = open_stored(target)
            if stored is None:
                raise UserError(
                    f"{target}: what was written there cannot be read back: look at the disk, or "
                    "set EVOMERGE_CACHE to a folder on another one"
                )
            self._open[key] = stored
        return self._open[key]

    def _key(self, model: str, kind: str, data: Data, calibration: Calibration) -> str:
        checkpoint = self._parents.opened[model]
        read = calibration.to_dict()
        read.pop("steps", None)
        if kind != "fisher":
            read.pop("labels", None)
        tokenizer = _tokenizer_digests(checkpoint)
        return _hashed(FORMAT, kind, checkpoint.fingerprint, data.sha256, read, tokenizer)

    def sample(self, kind: str, data: Mapping[str, Data], calibration: Calibration) -> Sampled:
        """Forecast what the statistics of these models take, by a few rows of one of them.

        Raises:
            UserError: The rows cannot be read, or the model does not run on them.
        """
        folders = {
            model: self._folder / self._key(model, kind, rows, calibration)
            for model, rows in data.items()
        }
        unmade = [model for model, folder in folders.items() if open_stored(folder) is None]
        model = [*unmade, *data][0]
        if not unmade:
            stored = open_stored(folders[model])
            assert stored is not None
            return forecast(self._parents.opened[model], len(data), stored, 0.0, 0)
        self._folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="sample-") as scratch:
            target = Path(scratch) / kind
            factor, running, weights = self._make(
                target, model, kind, data[model], calibration, few=True
            )
            stored = open_stored(target)
            assert stored is not None
            seconds = time.perf_counter() - began + (factor - 1) * running
            beside = 2 * stored.size if kind == "fisher" else min(BUDGET, stored.size)
            return forecast(
                self._parents.opened[model], len(data), stored, seconds, weights + beside, unmade
            )

    def _make(
        self,
        target: Path,
        model: str,
        kind: str,
        data: Data,
        calibration: Calibration,
        few: bool = False,
    ) -> tuple[float, float, int]:
        """Make a statistic of all rows, or of a few, evenly drawn.

        Returns:
            How many times as many rows there are, the seconds that these ran, and the bytes of the
            live model.
        """
        checkpoint = self._parents.opened[model]
        live = live_parent(model, self._parents)
        rows = _read(model, checkpoint, live.config, data, calibration)
        most = SAMPLE if kind == "fisher" else SAMPLE_TOKENS * len(rows.rows) // rows.tokens
        chosen = rows.rows[:: -(-len(rows.rows) // max(most, SAMPLE))] if few else rows.rows
        names = list(checkpoint.tensors)
        with write(target) as folder:
            writer = Writer(folder)
            about = _about(rows)
            began = time.perf_counter()
            if kind == "fisher":
                tensors = squares(live, names, chosen, calibration.labels, calibration.seed)
                seconds = time.perf_counter() - began
                about |= _whole(tensors)
                writer.add(tensors)
            else:
                sums = grams if kind == "gram" else directions
                leaders = sums(live, names, chosen, writer.add)
                seconds = time.perf_counter() - began
                about["leaders"] = {name: list(shared) for name, shared in leaders.items()}
            writer.finish(about)
        weights = sum(one.numel() * one.element_size() for one in live.parameters())
        return len(rows.rows) / len(chosen), seconds, weights


def _read(
    model: str, checkpoint: Checkpoint, config: Any, data: Data, calibration: Calibration
) -> Rows:
    """Read rows in the tokens of a model, within what it has positions for."""
    tokenizer = load_tokenizer(checkpoint.folder)
    if tokenizer is None:
        raise UserError(f"{model}: expected tokenizer files, to read its rows; there are none")
    text_config = config.get_text_config(decoder=True)
    longest = int(getattr(text_config, "max_position_embeddings", 0) or calibration.tokens + 1)
    rows = read_rows(data, calibration, tokenizer, longest)
    _check_tokens(rows, int(text_config.vocab_size), model, data)
    return rows


def _hashed(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _gated(recipe: Recipe) -> list[Data]:
    """Return the rows of each model of a recipe whose gates are trained."""
    data = [recipe.data_of(entry.model) for entry in recipe.models]
    given = [one for one in data if one is not None]
    if len(given) < len(data):
        raise UserError(
            f"{recipe.merge_method}: train: true needs rows of each model, and "
            f"{recipe.models[data.index(None)].model} has none: add `data: FILE` (JSON lines) "
            "to it, `tasks: [...]` in a study, or set train: false"
        )
    return given


def _masked(recipe: Recipe) -> list[tuple[str, Data]]:
    """Return the models whose changes a recipe masks, with their rows."""
    listed = [entry for entry in recipe.models if entry.model != recipe.base_model]
    return [(entry.model, entry.data) for entry in listed if entry.data is not None]


def _about(*rows: Rows) -> dict[str, Any]:
    return {
        "rows": sum(len(one.rows) for one in rows),
        "cut": sum(one.cut for one in rows),
        "tokens": sum(one.tokens for one in rows),
    }


def _tokenizer_digests(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    return sorted(
        (file.name, hashlib.sha256(file.read_bytes()).hexdigest())
        for file in checkpoint.tokenizer_files()
    )


def _whole(tensors: dict[str, Tensor]) -> dict[str, float]:
    """Return the norm and the mean over a whole model."""
    squared = sum(float(one.double().square().sum()) for one in tensors.values())
    total = sum(float(one.double().sum()) for one in tensors.values())
    count = sum(one.numel() for one in tensors.values())
    return {"norm": squared**0.5, "mean": total / max(count, 1)}


def _check_tokens(rows: Rows, size: int, model: str, data: Data) -> None:
    for row in rows.rows:
        if max(row.tokens) >= size:
            raise UserError(
                f"{data.file}: line {row.number}: token {max(row.tokens)} is not among the {size} "
                f"of {model}: its tokenizer is not the model's"
            )
