"""One contestant at a time, in a process of its own, whose peak memory it is."""

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
Found = TypeVar("Found")
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Measured(Generic[Found]):
    """One measurement: what the contestant found, and the largest resident memory of its process in MiB."""

    name: str
    found: Found
    peak_mib: float


def measure(contestant: Callable[[Job], Found], job: Job) -> Measured[Found]:
    """Runs a contestant, a function of a module, in a fresh process.

    Raises:
        CocoSearchError: it failed there.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_in_child, args=(contestant, job, sender))
    process.start()
    sender.close()
    try:
        found, peak = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        reason = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed: see above"
        raise CocoSearchError(f"{contestant.__name__} {reason}") from None
    finally:
        process.join()
    return Measured(contestant.__name__, found, peak)


def in_turn(contestants: Sequence[Callable[[Job], Found]], job: Job, rounds: int) -> dict[str, list[Measured[Found]]]:
    """Every contestant once, then every one again: a machine that slows down meanwhile slows all of them down."""
    measured: dict[str, list[Measured[Found]]] = {contestant.__name__: [] for contestant in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            measured[contestant.__name__].append(measure(contestant, job))
    return measured


def median_peak(measured: Sequence[Measured[Found]]) -> float:
    """In MiB."""
    return statistics.median(each.peak_mib for each in measured)


def peak_mib() -> float:
    """The largest resident memory of this process so far, in MiB."""
    if STATUS.exists():  # Linux, where `getrusage` remembers what the parent had when it started this process
        found = re.search(r"^VmHWM:\s+(\d+) kB$", STATUS.read_text(), re.M)
        if found:
            return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _measure_in_child(contestant: Callable[[Any], Any], job: Any, sender: Any) -> None:
    found = contestant(job)
    sender.send((found, peak_mib()))
