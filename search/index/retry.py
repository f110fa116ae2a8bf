"""Asking again: what fails because a server is away or overloaded is tried for a while, ever more slowly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from search.errors import ServerError

RETRY_SECONDS = 60.0  # from the first failure on; a container that was killed is back in less
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between tries

T = TypeVar("T")


def patiently(attempt: Callable[[], T], waiting: Callable[[ServerError], None]) -> T:
    """What `attempt` returns, which must do no harm when it is done twice.

    A transient ServerError is waited out: exponential back-off, with jitter so that many clients do not come back at
    once (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter), and at least as long as the server
    asks for. `waiting` is told each time.

    Raises:
        ServerError: at once where it is not transient, else after RETRY_SECONDS.
    """
    deadline, pause = None, FIRST_PAUSE
    while True:
        try:
            return attempt()
        except ServerError as error:
            deadline = deadline or time.monotonic() + RETRY_SECONDS
            wait = max(error.retry_after, pause * random.uniform(0.5, 1.0))
            if not error.transient or time.monotonic() + wait > deadline:
                raise
            waiting(error)
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)
