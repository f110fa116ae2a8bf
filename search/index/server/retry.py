"""Retry what fails because a server is away or overloaded, for a while and ever more slowly."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from search.errors import ServerError

RETRY_SECONDS = 60.0  # from the first failure on; a container that was killed is back in less
FIRST_CONTACT_SECONDS = 10.0  # for a server that has just been started, without keeping a wrong address waiting
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between tries

T = TypeVar("T")


def patiently(attempt: Callable[[], T], waiting: Callable[[ServerError], None], seconds: float | None = None) -> T:
    """Return what `attempt` returns, which must do no harm when it is done twice.

    A transient ServerError is retried: exponential back-off, with jitter so that many clients do not come back at
    once (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter), and at least as long as the server
    asks for. `waiting` is called before each pause. `seconds`: for how long (default: RETRY_SECONDS).

    Raises:
        ServerError: at once if it is not transient, else when the time is over.
    """
    deadline, pause = None, FIRST_PAUSE
    seconds = RETRY_SECONDS if seconds is None else seconds
    while True:
        try:
            return attempt()
        except ServerError as error:
            deadline = deadline or time.monotonic() + seconds
            wait = max(error.retry_after, pause * random.uniform(0.5, 1.0))
            if not error.transient or time.monotonic() + wait > deadline:
                raise
            waiting(error)
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


class Notice:
    """Tell the user once for each time that a server is away, not for each try."""

    def __init__(self) -> None:
        self._quiet_until = 0.0
        self._one_thread = threading.Lock()  # uploads run in several

    def __call__(self, error: ServerError, seconds: float | None = None) -> None:
        """Print the error, and for how many seconds it is retried, unless that was said already."""
        seconds = RETRY_SECONDS if seconds is None else seconds
        with self._one_thread:
            if time.monotonic() > self._quiet_until:
                print(f"note: {error}; trying again for {seconds:.0f} seconds", file=sys.stderr)
            self._quiet_until = time.monotonic() + seconds
