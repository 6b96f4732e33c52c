"""`evomerge methods`, `spaces`, `optimizers`, `schema`: show what comes with evomerge."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import TYPE_CHECKING, Any

from evomerge.cli.display.lines import show

if TYPE_CHECKING:
    from evomerge.methods import MethodSpec
    from evomerge.methods.parameters import ParameterSpec


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    methods = commands.add_parser("methods", help="merge methods: parameters, ranges, papers")
    methods.add_argument("name", nargs="?", metavar="NAME")
    methods.add_argument("--json", action="store_true", help="for scripts")
    methods.set_defaults(run=show_methods)

    spaces = commands.add_parser("spaces", help="the search spaces that come with evomerge")
    spaces.add_argument("name", nargs="?", metavar="NAME")
    spaces.set_defaults(run=show_spaces)

    optimizers = commands.add_parser("optimizers", help="optimizers: options, and when to use them")
    optimizers.add_argument("name", nargs="?", metavar="NAME")
    optimizers.add_argument("--json", action="store_true", help="for scripts")
    optimizers.set_defaults(run=show_optimizers)

    schema = commands.add_parser("schema", help="the study file's JSON schema, for editors")
    schema.set_defaults(run=show_schema)


def show_methods(arguments: argparse.Namespace) -> None:
    """List the merge methods, or describe one with all its parameters."""
    from evomerge import methods

    name: str | None = arguments.name
    specs = [methods.get(name)] if name else [*methods.registered(), *methods.structures()]
    if arguments.json:
        print(json.dumps([_as_data(spec) for spec in specs], indent=1))
        return
    if name is None:
        width = max(len(spec.name) for spec in specs)
        for spec in specs:
            show(f"{spec.name:<{width}}  {spec.summary}")
            searched = ", ".join(map(_searched, spec.parameters)) or "no parameters"
            show(f"{'':<{width}}  {searched} · {spec.reference}")
        show("\n[from, to]: searched there; evomerge methods NAME describes each parameter")
        return
    spec = specs[0]
    show(f"{spec.name}: {spec.summary}\n{spec.reference}\n")
    base = " besides a base" if spec.takes_base else ""
    optional = ", which it does without if there is none" if spec.base_optional else ""
    show(f"merges {methods.Count(spec.min_models, spec.max_models)}{base}{optional}\n")
    for parameter in spec.parameters:
        each = ", one for each model" if parameter.per_model else ""
        default = "required" if parameter.required else f"default {json.dumps(parameter.default)}"
        show(f"  {parameter.name}: {parameter.expected}{each}; {default}")
        if parameter.low is not None:
            show(f"      searched in [{parameter.low:g}, {parameter.high:g}]")
        if parameter.doc:
            show(f"      {parameter.doc}")


def show_spaces(arguments: argparse.Namespace) -> None:
    """List the search spaces, or print one."""
    from evomerge.recipe.space.shipped import find, shipped

    if arguments.name is not None:
        print(find(arguments.name).read_text(encoding="utf-8"), end="")
        return
    width = max(map(len, shipped())) + 2
    for name, file in shipped().items():
        show(f"{name:<{width}}{_about(file.read_text(encoding='utf-8'))}")


def _about(space: str) -> str:
    """Return the comment at the head of a file, to the first line that ends a sentence."""
    words: list[str] = []
    for line in space.splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# "))
        if line.endswith("."):
            break
    return " ".join(words)


def show_optimizers(arguments: argparse.Namespace) -> None:
    """List the optimizers, or describe one with all its options."""
    from evomerge.core.docstrings import summary
    from evomerge.optimizers import registry

    name: str | None = arguments.name
    names = [name] if name else sorted(registry.names())
    kinds = {one: type(registry.create(one)) for one in names}
    if arguments.json:
        print(json.dumps([_optimizer(one, kind) for one, kind in kinds.items()], indent=1))
        return
    if name is None:
        width = max(map(len, names))
        for one, kind in kinds.items():
            show(f"{one:<{width}}  {summary(kind)}")
        show("\nsearch: {optimizer: NAME, options: {…}}; evomerge optimizers NAME describes each")
        return
    about = _optimizer(name, kinds[name])
    show(f"{name}: {about['summary']}\n")
    for option in about["options"]:
        words, default = option["doc"].rstrip("."), json.dumps(option["default"])
        show(f"  {option['name']}: {words}; default {default}")


def _optimizer(name: str, kind: type) -> dict[str, Any]:
    from evomerge.core.docstrings import described, summary
    from evomerge.optimizers import registry

    fixed, words = registry.fixed_options(name), described(kind, "Args")
    options = [
        {"name": p.name, "default": p.default, "doc": words.get(p.name, "")}
        for p in inspect.signature(kind).parameters.values()
        if p.default is not inspect.Parameter.empty and p.name not in fixed
    ]
    return {"name": name, "summary": summary(kind), "options": options}


def show_schema(arguments: argparse.Namespace) -> None:
    """Print the JSON schema of a study file."""
    del arguments
    print(json.dumps(study_schema(), indent=1))


def study_schema() -> Any:
    """Return the JSON schema of a study file, with the names that come with evomerge proposed."""
    from evomerge.optimizers import registry
    from evomerge.recipe.space.shipped import shipped
    from evomerge.study.config.json_schema import json_schema

    return json_schema(sorted(registry.names()), shipped())


def _searched(parameter: ParameterSpec) -> str:
    if parameter.low is None:
        return parameter.name
    return f"{parameter.name} [{parameter.low:g}, {parameter.high:g}]"


def _as_data(spec: MethodSpec) -> dict[str, object]:
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
