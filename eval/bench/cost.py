"""Estimate what an index of any size needs, by fitting and extrapolating measurements of small ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from search.errors import EvaluationError

GIB = 2**30
FEWEST_SIZES = 3  # two would fit any formula
TARGETS = {
    "COCO": 740_000,  # 123,287 images and 616,767 captions
    "10 million": 10_000_000,
    "LAION-400M": 800_000_000,  # 400 million images, each with its one caption
}

Basis = Literal["measured", "interpolated", "extrapolated"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The measurements at one size. Bytes are those of the whole collection, None if the engine does not report them.

    `found`: the share of the exact hits that HNSW finds.
    """

    points: int
    upload_seconds: float
    build_seconds: float
    median_ms: float
    p95_ms: float
    found: float
    indexed: int
    disk_bytes: float | None
    memory_bytes: float | None


@dataclass(frozen=True, slots=True)
class Fit:
    """A line `a + b * n`, or a power `a * n ** b` whose logarithm was fitted, by least squares.

    `sizes` are those that were measured, and `worst` is the largest relative error at them. `held`: the best exponent
    is below the least plausible one, which is used instead.
    """

    shape: Literal["line", "power"]
    a: float
    b: float
    worst: float
    sizes: tuple[int, ...]
    held: bool = False

    def at(self, n: float) -> float:
        return self.a + self.b * n if self.shape == "line" else self.a * n**self.b

    def basis(self, n: float) -> Basis:
        if n in self.sizes:
            return "measured"
        return "interpolated" if min(self.sizes) < n < max(self.sizes) else "extrapolated"

    def __str__(self) -> str:
        formula = f"{self.a:.3g} + {self.b:.4g} n" if self.shape == "line" else f"{self.a:.3g} n^{self.b:.2f}"
        return f"{formula}{', exponent held' if self.held else ''} (at most {100 * self.worst:.0f}% off)"


def line(sizes: Sequence[int], values: Sequence[float]) -> Fit:
    """Fit a line. Raises EvaluationError if there are fewer than three sizes."""
    b, a = _least_squares(sizes, sizes, values)
    return _fit("line", a, b, sizes, values)


def power(sizes: Sequence[int], values: Sequence[float], least: float = -math.inf) -> Fit:
    """Fit a power to values above 0. If the best exponent is below `least`, use `least` and fit the factor alone.

    Raises:
        EvaluationError: there are fewer than three sizes.
    """
    x, y = np.log(sizes), np.log(values)
    b, a = _least_squares(sizes, x, y)
    if b < least:
        return _fit("power", math.exp(float((y - least * x).mean())), least, sizes, values, held=True)
    return _fit("power", math.exp(a), b, sizes, values)


def _least_squares(sizes: Sequence[int], x: Any, y: Any) -> tuple[float, float]:
    """Return the slope and the intercept."""
    if len(set(sizes)) < FEWEST_SIZES:
        raise EvaluationError(f"{len(set(sizes))} sizes are too few to fit growth: measure {FEWEST_SIZES} or more")
    slope, intercept = np.polyfit(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), 1)
    return float(slope), float(intercept)


def _fit(
    shape: Literal["line", "power"],
    a: float,
    b: float,
    sizes: Sequence[int],
    values: Sequence[float],
    held: bool = False,
) -> Fit:
    fit = Fit(shape, a, b, 0.0, tuple(sizes), held)
    return replace(fit, worst=max(abs(fit.at(n) - value) / value for n, value in zip(sizes, values, strict=True)))


@dataclass(frozen=True, slots=True)
class Growth:
    """How each cost grows with the number of points; bytes are None if they were not measured.

    No point costs less than the one before. But fixed costs, or other work on the machine, can make it look as if
    uploading and building grew more slowly than the number of points, or as if queries became faster. Extrapolated far,
    that would be much too optimistic, so their exponents are at least 1, 1 and 0.
    """

    upload_seconds: Fit
    build_seconds: Fit
    median_ms: Fit
    disk_bytes: Fit | None
    memory_bytes: Fit | None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Growth:
        """Fit the samples. Raises EvaluationError if there are fewer than three sizes."""
        sizes = [sample.points for sample in samples]

        def bytes_of(values: Sequence[float | None]) -> Fit | None:
            known = [value for value in values if value is not None]
            return line(sizes, known) if len(known) == len(sizes) else None

        return cls(
            power(sizes, [sample.upload_seconds for sample in samples], least=1),
            power(sizes, [sample.build_seconds for sample in samples], least=1),
            power(sizes, [sample.median_ms for sample in samples], least=0),
            bytes_of([sample.disk_bytes for sample in samples]),
            bytes_of([sample.memory_bytes for sample in samples]),
        )

    def fits(self) -> dict[str, Fit | None]:
        return {name: getattr(self, name) for name in Growth.__slots__}


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, and whether it was measured; `times`: the size that it is for, divided by the largest measured one."""

    value: float
    basis: Basis
    times: float

    @classmethod
    def at(cls, fit: Fit, n: float, per: float = 1.0) -> Figure:
        return cls(fit.at(n) / per, fit.basis(n), n / max(fit.sizes))


@dataclass(frozen=True, slots=True)
class Need:
    """What so many vectors need.

    `share`: the vectors of one node. Upload, build and query times are those of one node with its share, on a machine
    like the measured one, while all nodes work in parallel; the network is left out.
    """

    name: str
    vectors: int
    nodes: int
    share: float
    memory_gib: Figure | None
    disk_gib: Figure | None
    upload_hours: Figure
    build_hours: Figure
    query_ms: Figure


def need(name: str, vectors: int, growth: Growth, node_memory_gib: float) -> Need:
    """Return what `vectors` need on nodes with `node_memory_gib` for the index; one node if memory was not measured."""
    memory = Figure.at(growth.memory_bytes, vectors, GIB) if growth.memory_bytes else None
    nodes = max(1, math.ceil(memory.value / node_memory_gib)) if memory else 1
    share = vectors / nodes
    return Need(
        name,
        vectors,
        nodes,
        share,
        memory,
        Figure.at(growth.disk_bytes, vectors, GIB) if growth.disk_bytes else None,
        Figure.at(growth.upload_seconds, share, 3600),
        Figure.at(growth.build_seconds, share, 3600),
        Figure.at(growth.median_ms, share),
    )
