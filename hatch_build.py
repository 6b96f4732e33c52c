"""Makes the README's links absolute for the package index, which shows it somewhere else.

While the project has no address, links to its files become plain words.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Readme(MetadataHookInterface):
    """Sets the package's long description."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Read README.md, and point its links and pictures to the repository of this version."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        text = absolute(text, source, f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, source: str | None, revision: str) -> str:
    """Return Markdown whose relative links and pictures are addresses; without a source, words.

    >>> absolute("![a](a.png) [b](docs/b.md)", "https://s.org/x", "v1")
    '![a](https://s.org/x/raw/v1/a.png) [b](https://s.org/x/blob/v1/docs/b.md)'
    >>> absolute("[c](https://c.org) [d](#d)", "https://s.org/x", "v1")
    '[c](https://c.org) [d](#d)'
    >>> absolute("![a](a.png)see [b](docs/b.md)", None, "v1")
    'see b'
    """

    def address(match: re.Match[str]) -> str:
        mark, words, target = match[1], match[2], match[3]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        if source is None:
            return "" if mark else words
        return f"{mark}[{words}]({source}/{'raw' if mark else 'blob'}/{revision}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", address, text)
