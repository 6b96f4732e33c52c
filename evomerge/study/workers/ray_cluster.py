"""The head of a Ray cluster: whether it still answers. Needs no Ray.

Where the head is lost, Ray lets calls wait for a minute and then ends this process by itself, with
words of its own. The study ends before that, as after any other fault: its journal is closed, and
the user is told how to go on.
"""

from __future__ import annotations

import socket
import time

from evomerge.core.errors import ResumableError, UserError

PATIENCE = 30.0  # seconds without a head; Ray gives up after 60
_EVERY = 2.0  # seconds between looks
_TIMEOUT = 3.0  # of one look


class Head:
    """The head at ``host:port``; without an address it is never found to be lost.

    Attributes:
        is_lost: Whether `check` gave it up: nothing can be asked of the cluster any more.
    """

    def __init__(self, address: str | None):
        self.is_lost = False
        self._address = address
        self._asked = self._answered = time.monotonic()

    def check(self) -> None:
        """Look whether the head answers; most calls come too soon for that and do nothing.

        Raises:
            ResumableError: It has not answered for `PATIENCE` seconds.
        """
        now = time.monotonic()
        if self._address is None or now - self._asked < _EVERY:
            return
        why = unreachable(self._address, _TIMEOUT)
        self._asked = time.monotonic()
        if why is None:
            self._answered = self._asked
        elif self._asked - self._answered > PATIENCE:
            self.is_lost = True
            raise ResumableError(
                f"workers: the head of the Ray cluster at {self._address} is lost ({why}); what "
                "was finished is kept, and a run goes on where a new cluster is"
            )

    def wait(self) -> None:
        """Come back when the head answers.

        Raises:
            ResumableError: As for `check`.
        """
        while self._address is not None and unreachable(self._address, _TIMEOUT) is not None:
            self.check()
            time.sleep(0.5)


def check_reachable(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself would take minutes to say so.

    Raises:
        UserError: Nobody listens there.
    """
    why = unreachable(address)
    if why is not None:
        raise UserError(
            f"workers.ray_address: expected a Ray cluster at {address}, but {why}; start one "
            "with `ray start --head`, or leave the address out"
        )


def unreachable(address: str, timeout: float = 10.0) -> str | None:
    """Why nobody can be reached at ``host:port``; ``None`` if somebody can, or it is no such."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "//" in host:
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return None
