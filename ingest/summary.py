"""What a run did: counts, failures, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from search.text import to_json

T = TypeVar("T")

ADVICE = {
    "photos": "reading and decoding is the bottleneck: more --workers, or --decode scaled (a little less exact)",
    "encoder": "the model is the bottleneck: a GPU, a smaller --dtype, or several GPUs with --devices",
    "writer": "writing to the index is the bottleneck: a faster disk, or a server that is nearer",
}
"""What to change where the main loop waited longest."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One input that could not be embedded."""

    file: str
    image_id: int
    stage: str
    reason: str


@dataclass(slots=True)
class Tally:
    """What happened to the records of one collection; `embedded` are acknowledged by the index."""

    embedded: int = 0
    already_there: int = 0


@dataclass(slots=True)
class Summary:
    """Counts, failures and seconds of a run.

    `busy`: seconds that each stage worked, added up over its workers; stages overlap. `waits`: seconds that the main
    loop stood still for photos, the encoder or the writer.
    """

    images: Tally = field(default_factory=Tally)
    captions: Tally = field(default_factory=Tally)
    truncated: int = 0
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)
    waits: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time within to the busy seconds of a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            _add(self.busy, {stage: time.perf_counter() - start})

    @contextmanager
    def waiting(self, what: str, stage: str | None = None) -> Iterator[None]:
        """Adds the time within to the waits, and to the busy seconds of a stage that works only while waited for."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            _add(self.waits, {what: spent})
            if stage is not None:
                _add(self.busy, {stage: spent})

    def waited(self, what: str, items: Iterable[T]) -> Iterator[T]:
        """Passes items on; the time that each took to come is a wait."""
        iterator = iter(items)
        while True:
            with self.waiting(what):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def worked(self, seconds: Mapping[str, float]) -> None:
        """Adds seconds that workers measured."""
        _add(self.busy, seconds)

    @property
    def bottleneck(self) -> str | None:
        """What the main loop waited for longest: "photos", "encoder" or "writer"; None where nothing was embedded."""
        return (
            max(self.waits, key=lambda what: self.waits[what])
            if self.images.embedded + self.captions.embedded
            else None
        )

    def timings(self) -> str:
        """Seconds per stage, what the run waited for, and what would make it faster, in one or two lines."""
        lines = ["seconds busy: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.busy.items())]
        if self.bottleneck is not None:
            waits = ", ".join(f"{what} {seconds:.1f}" for what, seconds in self.waits.items())
            lines.append(f"seconds waited for: {waits}; what would help: {ADVICE[self.bottleneck]}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "bottleneck": self.bottleneck}

    def write_failures(self, file: Path) -> None:
        """One JSON object a line: file, image_id, stage, reason."""
        lines = (to_json(asdict(failure)) + "\n" for failure in self.failures)
        file.write_text("".join(lines), encoding="utf-8")


def _add(totals: dict[str, float], seconds: Mapping[str, float]) -> None:
    for stage, spent in seconds.items():
        totals[stage] = totals.get(stage, 0.0) + spent
