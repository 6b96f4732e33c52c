"""Makes it impossible for lm-eval to import a task's Python, for as long as a task is loaded.

`task_files` reads what a task would run and refuses it by name. This is the lock behind that door:
whatever a file says or becomes in between, lm-eval's own functions that import code refuse.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from evomerge.core.errors import UserError

_IMPORTERS = ("_import_func_in_yml", "_import_fun_from_str", "_load_module_with_cache")


@contextlib.contextmanager
def no_code(yaml_loader: Any, built_in: Path, metrics: bool) -> Iterator[None]:
    """Refuse every import of task code but that of lm-eval's own tasks.

    Args:
        yaml_loader: lm-eval's module that reads task files.
        built_in: The folder of the tasks that were installed with lm-eval.
        metrics: Whether metrics may be programs of the `evaluate` library, which it downloads, or
            takes from a folder if the metric's name is one.

    Raises:
        UserError: Code would have run; or this version of lm-eval imports it in another way.
    """
    plain = {name: getattr(yaml_loader, name, None) for name in _IMPORTERS}
    if None in plain.values():
        raise UserError(
            "this version of lm-eval loads task code in a way that evomerge does not know; "
            "expected lm-eval 0.4.13"
        )

    def guarded(name: str) -> Any:
        def importer(qualified_name: Any, *arguments: Any) -> Any:
            folder = Path(arguments[0] if arguments else qualified_name).resolve()
            if built_in not in (folder, *folder.parents):
                refuse(qualified_name)
            return plain[name](qualified_name, *arguments)  # type: ignore[misc]

        return importer

    def refuse(what: Any) -> NoReturn:
        raise UserError(
            f"a task runs code of its own ({what}); read it, then allow it with `allow_task_code`"
        )

    evaluate = sys.modules.get("evaluate")
    for name in _IMPORTERS:
        setattr(yaml_loader, name, guarded(name))
    if not metrics:
        sys.modules["evaluate"] = None  # type: ignore[assignment]  # an import of it now fails
    try:
        yield
    finally:
        for name, importer in plain.items():
            setattr(yaml_loader, name, importer)
        if not metrics:
            del sys.modules["evaluate"]
            if evaluate is not None:
                sys.modules["evaluate"] = evaluate
