"""The summary of a run: counts, failures, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from ingest.failures import Failure, count_of

T = TypeVar("T")

ADVICE = {
    "photos": "reading and decoding is the bottleneck: more --workers, or --decode scaled (slightly less exact)",
    "encoder": "the model is the bottleneck: a GPU, a smaller --dtype, or several GPUs with --devices",
    "writer": "writing to the index is the bottleneck: a faster disk, or a closer server",
}
"""What to change, by what the main loop waited for longest."""


@dataclass(slots=True)
class Tally:
    """Counts of the records of one collection; `embedded` and `updated` are acknowledged by the index.

    The vector of an updated record was current, so only its payload was written, or it was copied from the point of a
    photo that was renamed. `gone` is the number of stored points that the source no longer lists; `pruned` of them were
    deleted.
    """

    embedded: int = 0
    updated: int = 0
    already_there: int = 0
    gone: int = 0
    pruned: int = 0


@dataclass(slots=True)
class Summary:
    """Counts, failures and seconds of a run.

    `seconds`: from start to end. `busy`: seconds that each stage worked, summed over its workers; stages overlap.
    `waits`: seconds that the main loop waited for photos, the encoder or the writer.
    """

    images: Tally = field(default_factory=Tally)
    captions: Tally = field(default_factory=Tally)
    truncated: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time within the block to the busy seconds of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            _add(self.busy, {stage: time.perf_counter() - start})

    @contextmanager
    def waiting(self, what: str, stage: str | None = None) -> Iterator[None]:
        """Add the time within the block to the waits, and to the busy seconds of a stage that works only then."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            _add(self.waits, {what: spent})
            if stage is not None:
                _add(self.busy, {stage: spent})

    def waited(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; the time until each arrives is added to the waits."""
        iterator = iter(items)
        while True:
            with self.waiting(what):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def worked(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds per stage that workers measured to the busy ones."""
        _add(self.busy, seconds)

    @property
    def bottleneck(self) -> str | None:
        """What the main loop waited for longest: "photos", "encoder" or "writer"; None if nothing was embedded."""
        return (
            max(self.waits, key=lambda what: self.waits[what])
            if self.images.embedded + self.captions.embedded
            else None
        )

    def sentence(self) -> str:
        """Return what was embedded, in how many seconds, and how fast."""
        digits = 0 if self.seconds >= 10 else 1
        seconds = f"{self.seconds:,.{digits}f} seconds"
        if not self.images.embedded + self.captions.embedded:
            return f"nothing to embed ({seconds})"
        count, unit = (self.images.embedded, "photos") if self.images.embedded else (self.captions.embedded, "captions")
        embedded = f"{count_of(self.images.embedded, 'photo')} and {count_of(self.captions.embedded, 'caption')}"
        return f"embedded {embedded} in {seconds}: {count / max(self.seconds, 0.001):,.1f} {unit}/s"

    def timings(self) -> str:
        """Return the seconds per stage, the waits, and what would make the run faster, in one or two lines."""
        lines = ["seconds busy: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.busy.items())]
        if self.bottleneck is not None:
            waits = ", ".join(f"{what} {seconds:.1f}" for what, seconds in self.waits.items())
            lines.append(f"seconds waited for: {waits}; what would help: {ADVICE[self.bottleneck]}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        failures = [failure.as_json() for failure in self.failures]
        return {**asdict(self), "failures": failures, "bottleneck": self.bottleneck}


def _add(totals: dict[str, float], seconds: Mapping[str, float]) -> None:
    for stage, spent in seconds.items():
        totals[stage] = totals.get(stage, 0.0) + spent
