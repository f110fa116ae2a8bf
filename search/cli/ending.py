"""End the process of a command as soon as its output is written, without closing what it has only read."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

OBJECTS_BEFORE_COLLECTION = 20_000  # instead of Python's 700 to 2,000: imports make many objects, none of them garbage

soon = False
"""Whether this process ends by `os._exit`, so that an embedded index that it reads can stay open until then."""


def end_after(main: Callable[[], None]) -> None:
    """Run `main`, which raises SystemExit, write what is left of its output, and end the process."""
    global soon
    soon = True
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    try:
        main()
    except SystemExit as end:
        os._exit(_flushed(end.code if isinstance(end.code, int) else 0))


def _flushed(code: int) -> int:
    """Write what is left of the output, and return the exit code: 1 if that fails."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # the process was started with it closed
                stream.flush()
    except BrokenPipeError:  # the reader has seen enough
        return 1
    except OSError as error:
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return code
