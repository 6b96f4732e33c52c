"""The commands that show something or make one thing: status, report, build, methods, spaces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.core.errors import UserError
from evomerge.core.partial import telling, write_text
from evomerge.study.journal.journal import JOURNAL, iterate
from evomerge.study.journal.lock import writer
from evomerge.study.journal.record import Record

if TYPE_CHECKING:
    from evomerge.methods.parameters import ParameterSpec


def record_of(directory: Path) -> Record:
    """What a run's journal holds, also while the run goes on.

    Raises:
        UserError: The folder holds no run.
    """
    return Record.from_events(iterate(journal_of(directory)))


def journal_of(directory: Path) -> Path:
    """The journal of a run folder.

    Raises:
        UserError: The folder holds none.
    """
    if not (directory / JOURNAL).is_file():
        inner = directory / "run"  # as `evomerge demo` makes them
        hint = f"; {inner} is one" if (inner / JOURNAL).is_file() else ""
        raise UserError(f"{directory}: expected a run folder, but it has no {JOURNAL}{hint}")
    return directory / JOURNAL


def show_status(directory: Path, as_json: bool) -> None:
    """Print where a run is."""
    from evomerge.report import status_text

    record, running = record_of(directory), writer(journal_of(directory)) is not None
    if as_json:
        print(json.dumps({**record.status(), "running": running}, ensure_ascii=False))
    else:
        print(status_text(record, running=running))


def show_explanation(directory: Path, as_json: bool, around: int | None = None) -> None:
    """Print what a run says about its parents and its space.

    Args:
        directory: The run folder.
        as_json: Print data instead of text.
        around: How many points to score on each line around the winner; the outcome is also
            written to explain.json. ``None`` scores nothing.

    Raises:
        UserError: Nothing can be scored around the winner.
    """
    from evomerge.report.explain import explanation, explanation_text

    told = explanation(record_of(directory))
    if around is not None:
        told["landscape"] = _around(directory, around, told["importance"])
        text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
        with telling(directory / "explain.json"):
            write_text(directory / "explain.json", text)
    print(json.dumps(told, ensure_ascii=False) if as_json else explanation_text(told))


def _around(directory: Path, n: int, importance: Mapping[str, Any] | None) -> dict[str, Any]:
    from evomerge.study.analysis.landscape import landscape

    if n < 3:
        raise UserError(f"--around: expected at least 3 points, but got {n}")
    if importance is None or importance["predicted"] <= 0:
        return landscape(directory, n)
    return landscape(directory, n, [*importance["dimensions"]])


def make_report(directory: Path, out: Path | None, quiet: bool = False) -> Path:
    """Write a run's report and say where it is."""
    from evomerge.report import write_report

    record_of(directory)
    path = write_report(directory, out)
    if not quiet:
        print(path)
    return path


def repair_journal(directory: Path, to: int | None) -> None:
    """Check a run's journal, or cut it off at an offset; says what is kept, and where the rest."""
    from evomerge.study.journal.repair import repair

    done = repair(directory, to)
    print(f"{directory / JOURNAL}: {done.events} whole events in {done.kept_bytes} bytes")
    if done.rest is not None:
        print(f"the {done.cut_bytes} bytes behind them are kept in {done.rest}")


def recipe_of(source: Path, trial: int | None) -> Any:
    """A recipe from its file, or from a run folder: the recommended one, or a trial's.

    Raises:
        UserError: There is no such recipe, file or trial.
    """
    from evomerge.recipe.recipe import Recipe

    if not source.is_dir():
        if trial is not None:
            raise UserError(f"--trial {trial}: expected a run folder, but {source} is none")
        return Recipe.from_yaml(source)
    record = record_of(source)
    if trial is None:
        if record.verdict is None:
            raise UserError(f"{source}: this run has no verdict yet; choose by --trial NUMBER")
        trial = int(record.verdict["winner"]["trial"])
    if trial not in record.trials:
        last = record.next_number - 1
        raise UserError(f"{source}: there is no trial {trial}; the last one is {last}")
    return Recipe.from_dict(record.trials[trial].recipe)


def build_recipe(source: Path, out: Path, device: str, trial: int | None) -> None:
    """Merge a recipe into a folder; the digest of its weights is the last line."""
    from evomerge.merge.make import build

    digest = build(recipe_of(source, trial), out, device=device)
    print(f"wrote {out}")
    print(digest)


def export_recipe(source: Path, trial: int | None) -> None:
    """Print a recipe in mergekit's words."""
    from evomerge.merge.parents.nested import open_parents, with_merges
    from evomerge.recipe.mergekit.to_mergekit import as_yaml, to_mergekit

    recipe = recipe_of(source, trial)
    parents = with_merges(recipe, open_parents(recipe.model_names))
    names = list(parents.checkpoints[recipe.donor].tensors)
    print(as_yaml(to_mergekit(recipe, names)), end="")


def show_methods(name: str | None, as_json: bool) -> None:
    """List the merge methods, or say all about one."""
    from evomerge import methods

    specs = [methods.get(name)] if name else list(methods.registered())
    if as_json:
        print(json.dumps([_as_data(spec) for spec in specs], ensure_ascii=False, indent=1))
        return
    if name is None:
        width = max(len(spec.name) for spec in specs)
        for spec in specs:
            print(f"{spec.name:<{width}}  {spec.summary}")
            searched = ", ".join(map(_searched, spec.parameters)) or "no parameters"
            print(f"{'':<{width}}  {searched} · {spec.reference}")
        print("\n[from, to]: searched there; evomerge methods NAME tells what each parameter does")
        return
    spec = specs[0]
    print(f"{spec.name}: {spec.summary}\n{spec.reference}\n")
    base = " besides a base" if spec.takes_base else ""
    optional = ", which it does without if there is none" if spec.base_optional else ""
    print(f"merges {methods.Count(spec.min_models, spec.max_models)}{base}{optional}\n")
    for parameter in spec.parameters:
        each = ", one for each model" if parameter.per_model else ""
        default = "required" if parameter.required else f"default {json.dumps(parameter.default)}"
        print(f"  {parameter.name}: {parameter.expected}{each}; {default}")
        if parameter.low is not None:
            print(f"      searched in [{parameter.low:g}, {parameter.high:g}]")
        if parameter.doc:
            print(f"      {parameter.doc}")


def _searched(parameter: ParameterSpec) -> str:
    if parameter.low is None:
        return parameter.name
    return f"{parameter.name} [{parameter.low:g}, {parameter.high:g}]"


def show_spaces(name: str | None) -> None:
    """List the search spaces, or print one."""
    from evomerge.recipe.space.space import find, shipped

    if name is not None:
        print(find(name).read_text(encoding="utf-8"), end="")
        return
    for known, file in shipped().items():
        first = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        print(f"{known:<26}{first}")


def _as_data(spec: object) -> dict[str, object]:
    from evomerge import methods

    assert isinstance(spec, methods.MethodSpec)
    return {
        "name": spec.name,
        "summary": spec.summary,
        "reference": spec.reference,
        "takes_base": spec.takes_base,
        "base_optional": spec.base_optional,
        "in_mergekit": spec.in_mergekit,
        "models": [spec.min_models, spec.max_models],
        "stochastic": spec.stochastic,
        "parameters": [
            {
                "name": p.name,
                "kind": p.kind,
                "per_model": p.per_model,
                "search_range": None if p.low is None else [p.low, p.high],
                "valid_range": [p.valid_low, p.valid_high],
                "choices": list(p.choices),
                "required": p.required,
                "default": None if p.required else p.default,
                "doc": p.doc,
            }
            for p in spec.parameters
        ],
    }
