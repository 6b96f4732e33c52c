"""Task templates that can read documents and nothing else."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, Template
from jinja2.sandbox import SandboxedEnvironment


class SafeTemplates(SandboxedEnvironment):
    """A sandboxed stand-in for the environment in which lm-eval renders task templates.

    lm-eval renders `doc_to_text` and its like in a plain Jinja environment, where a template can
    reach any Python object, and compiles the template anew for every document. Here each is
    compiled once, which makes loading and grading several times faster.
    """

    def __init__(self, plain: Environment) -> None:
        super().__init__(undefined=plain.undefined, keep_trailing_newline=True)
        self.filters.update(plain.filters)
        self._compiled: dict[str, Template] = {}

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Template:
        """The compiled template of a source text."""
        if args or kwargs or not isinstance(source, str):
            return super().from_string(source, *args, **kwargs)
        if source not in self._compiled:
            self._compiled[source] = super().from_string(source)
        return self._compiled[source]
