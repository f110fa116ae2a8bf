"""Exit at once, without a traceback, on Ctrl-C while a command is starting.

Python may raise KeyboardInterrupt anywhere: during an import it becomes a traceback or another error, and while a
thread loads a model the process waits for that thread. A command that is still starting has nothing to finish.

This module imports only what loads fast: the commands call it before their other imports.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

INTERRUPTED = 130  # the exit code that shells report for a program ended by Ctrl-C


def end_on_interrupt() -> None:
    """Make Ctrl-C end the process at once, unless it is ignored (as under nohup) or has another handler."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_on_interrupt() -> None:
    """Make Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def ending_on_interrupt() -> Iterator[None]:
    """Make Ctrl-C end the process at once within this block."""
    end_on_interrupt()
    try:
        yield
    finally:
        raise_on_interrupt()


def run_command(module: str) -> None:
    """Import a module and run its `main()`; for console scripts."""
    end_on_interrupt()
    main: Callable[[], None] = import_module(module).main
    main()


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)
