"""A folder behind a URL (``s3://…``, ``gs://…``, ``file://…``); the one door to fsspec.

Every object is written once, under a name of its own, and appears whole: a store needs neither
appending nor renaming over what is there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evomerge.core.errors import UserError
from evomerge.core.redact import redact

# Where an object appears whole when its upload ends; elsewhere it is renamed into place.
_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory", "oci", "oss", "r2"}
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


class RemoteError(OSError):
    """The store could not be reached, or it refused."""


class Remote:
    """A folder behind a URL.

    Credentials come from where the store's own package looks for them (environment, its
    configuration), never from evomerge.

    Args:
        url: Such as ``s3://bucket/folder`` or ``file:///mnt/disk/folder``.

    Raises:
        UserError: It is no such URL, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = redact(url.rstrip("/"))
        scheme = url.partition("://")[0]
        if "://" not in url or not scheme:
            raise UserError(
                f"--mirror: expected a URL such as s3://bucket/folder or file:///folder, "
                f"got {url!r}"
            )
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            package = _PACKAGES.get(scheme, "the one that it names")
            raise UserError(
                f"--mirror: {scheme}:// needs the package {package}: python -m pip install "
                f"{package} ({error})"
            ) from None
        except Exception as error:
            raise UserError(f"--mirror {self.url}: {redact(_line(error))}") from None
        self._root = str(root).rstrip("/")
        self._is_whole = scheme in _WHOLE

    def names(self, folder: str = "") -> list[str]:
        """List the names in a folder; none if there is no such folder."""
        path = self._path(folder)
        with self._failing("list", folder):
            self._files.invalidate_cache(path)
            try:
                listed = self._files.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            paths = {str(name).rstrip("/") for name in listed}
            return sorted(posixpath.basename(p) for p in paths - {path})  # not its own marker

    def read(self, name: str) -> bytes:
        """Return an object's bytes."""
        with self._failing("read", name):
            content: bytes = self._files.cat_file(self._path(name))
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write a new object."""
        with self._failing("write", name), self._placed(name) as path:
            self._files.pipe_file(path, content)

    def upload(self, name: str, file: Path) -> None:
        """Write a new object from a file, in pieces."""
        with self._failing("write", name), self._placed(name) as path:
            self._files.put_file(str(file), path)

    def download(self, name: str, file: Path) -> None:
        """Write an object to a file, in pieces."""
        with self._failing("read", name):
            self._files.get_file(self._path(name), str(file))

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with all it holds; a missing one is as good as removed."""
        with self._failing("remove", name):
            try:
                self._files.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name) if name else self._root

    @contextmanager
    def _placed(self, name: str) -> Iterator[str]:
        path = self._path(name)
        if self._is_whole:
            yield path
            return
        folder, last = posixpath.split(path)
        self._files.makedirs(folder, exist_ok=True)
        partial = posixpath.join(folder, f".{last}.partial")
        yield partial
        self._files.mv(partial, path)

    @contextmanager
    def _failing(self, what: str, name: str) -> Iterator[Any]:
        try:
            yield
        except Exception as error:  # each store has errors of its own
            place = f"{self.url}/{name}" if name else self.url
            raise RemoteError(f"cannot {what} {place}: {redact(_line(error))}") from None


def _line(error: Exception) -> str:
    """Say an error in one line; many stores' errors have none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
