"""Retry while a server is unavailable or overloaded, with growing pauses, for a limited time.

A server is Qdrant's, or the `search serve` of this machine that has an embedded index open.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from search.errors import ServerError

RETRY_SECONDS = 60.0  # from the first failure; a killed container restarts in less
FIRST_CONTACT_SECONDS = 10.0  # enough for a server that was just started, and a wrong address fails soon
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between attempts

T = TypeVar("T")


def while_unavailable(
    attempt: Callable[[], T], before_retry: Callable[[ServerError, float], None], seconds: float | None = None
) -> T:
    """Return the result of `attempt`, which must be idempotent, retrying after a transient ServerError.

    Pauses grow exponentially, with jitter so that many clients do not return at once
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter), and are at least as long as the server
    requests. `seconds`: for how long to retry (default: RETRY_SECONDS). `before_retry` is called before each pause,
    with the error and these seconds.

    Raises:
        ServerError: at once if it is not transient, else as soon as the next pause would end after that time.
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
            before_retry(error, seconds)
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


class Notice:
    """Prints one message per outage, not per attempt."""

    def __init__(self) -> None:
        self._quiet_until = 0.0
        self._lock = threading.Lock()  # uploads run in several threads

    def __call__(self, error: ServerError, seconds: float) -> None:
        """Print the error, and for how many seconds it is retried, unless this outage was already reported."""
        with self._lock:
            if time.monotonic() > self._quiet_until:
                print(f"note: {error}; retrying for {seconds:.0f} seconds", file=sys.stderr)
            self._quiet_until = time.monotonic() + seconds
