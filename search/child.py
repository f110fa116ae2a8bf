"""Call a function of this project in a new Python process."""

from __future__ import annotations

import sys


def command_of(module: str, function: str, *arguments: str) -> list[str]:
    """Return the command of a process that calls a function with these arguments.

    The process imports from where this one does; by itself, `-c` would try the current folder first.
    """
    end = 1 + len(arguments)
    code = (
        f"import sys; sys.path[:] = sys.argv[{end}:]; from {module} import {function}; {function}(*sys.argv[1:{end}])"
    )
    return [sys.executable, "-c", code, *arguments, *sys.path]
