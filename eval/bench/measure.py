"""Measure one contestant at a time, in its own process, so that peak memory is its own."""

from __future__ import annotations

import multiprocessing
import re
import resource
import signal
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from search.errors import CocoSearchError

Job = TypeVar("Job")
Result = TypeVar("Result")
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Measured(Generic[Result]):
    """One measurement: the contestant's result, and the peak resident memory of its process in MiB."""

    name: str
    result: Result
    peak_mib: float


def measure(contestant: Callable[[Job], Result], job: Job) -> Measured[Result]:
    """Run a contestant, a module-level function, in a new process.

    Raises:
        CocoSearchError: it failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_in_child, args=(contestant, job, sender))
    process.start()
    sender.close()
    try:
        result, peak = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        reason = f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed: see above"
        raise CocoSearchError(f"{contestant.__name__} {reason}") from None
    finally:
        process.join()
    return Measured(contestant.__name__, result, peak)


def in_turn(contestants: Sequence[Callable[[Job], Result]], job: Job, rounds: int) -> dict[str, list[Measured[Result]]]:
    """Measure every contestant once per round, so that a machine that slows down slows all of them."""
    measured: dict[str, list[Measured[Result]]] = {contestant.__name__: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            measured[contestant.__name__].append(measure(contestant, job))
    return measured


def median_peak(measured: Sequence[Measured[Result]]) -> float:
    """Return the median peak memory in MiB."""
    return statistics.median(each.peak_mib for each in measured)


def peak_mib() -> float:
    """Return the peak resident memory of this process so far, in MiB."""
    if STATUS.exists():  # Linux, where `getrusage` includes the parent's memory at the time of the fork
        match = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.M)
        if match:
            return int(match[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _measure_in_child(contestant: Callable[[Any], Any], job: Any, sender: Any) -> None:
    result = contestant(job)
    sender.send((result, peak_mib()))
