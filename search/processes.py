"""Count the processors of this process, and call a function in a new one."""

from __future__ import annotations

import os
import sys


def processors() -> int:
    """Return how many processors this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def command_of(module: str, function: str, *arguments: str) -> list[str]:
    """Return the command of a process that calls a function with these arguments.

    The process imports from where this one does; by itself, `-c` would try the current folder first.
    """
    end = 1 + len(arguments)
    code = (
        f"import sys; sys.path[:] = sys.argv[{end}:]; from {module} import {function}; {function}(*sys.argv[1:{end}])"
    )
    return [sys.executable, "-c", code, *arguments, *sys.path]
