"""The guard against scans that pass for HNSW, on embedded collections small enough to fool a look at the counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from points import image, unit

from eval.ranks.hnsw_check import used
from search.index import CollectionSpec, Points, Quantization, Tuning, Where
from search.index.edge.index import EdgeIndex

MakeSpec = Callable[..., CollectionSpec]
Build = Callable[..., tuple[EdgeIndex, str]]

DIM = 64
QUERIES = unit(30, DIM, seed=8)


@pytest.fixture
def build(tmp_path: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """A collection with HNSW built, one image of ten in the split `val`."""
    index = EdgeIndex(tmp_path)

    def make(count: int, *, scan_below: int = 0, quantization: Quantization = "none") -> tuple[EdgeIndex, str]:
        monkeypatch.setattr("search.index.edge.config.FULL_SCAN_THRESHOLD", scan_below)
        spec = make_spec(dim=DIM)
        index.create(spec, Tuning(quantization=quantization, index_everything=True))
        records = [image(number, "test" if number % 10 else "val") for number in range(count)]
        index.upsert(spec.collection, Points(records, unit(count, DIM)))
        index.optimize(spec.collection)
        assert index.info(spec.collection).indexed_vectors == count
        return index, spec.collection

    yield make
    index.close()


@pytest.mark.parametrize("count", [50, 300, 2000])
def test_hnsw_is_proved_even_of_small_collections(build: Build, count: int) -> None:
    assert used(*build(count), QUERIES) == "hnsw"


def test_the_random_directions_prove_it_where_the_queries_cannot(build: Build) -> None:
    assert used(*build(300), unit(300, DIM)[:1]) == "hnsw"
    assert used(*build(300), unit(300, DIM)[:0]) == "hnsw"


@pytest.mark.parametrize("quantization", ["none", "int8", "binary"])
def test_a_scan_that_counts_every_vector_as_indexed(build: Build, quantization: Quantization) -> None:
    index, collection = build(300, scan_below=10_000, quantization=quantization)
    assert used(index, collection, QUERIES) == "indistinguishable from a scan"


@pytest.mark.parametrize("quantization", ["int8", "binary"])
def test_quantised_hnsw(build: Build, quantization: Quantization) -> None:
    assert used(*build(300, quantization=quantization), QUERIES) == "hnsw"


def test_a_narrow_filter_is_scanned(build: Build) -> None:
    index, collection = build(2000, scan_below=100)  # KB: all are 500, one of ten is 50
    assert used(index, collection, QUERIES) == "hnsw"
    assert used(index, collection, QUERIES, Where(splits=("test",))) == "hnsw"
    assert used(index, collection, QUERIES, Where(splits=("val",))) == "indistinguishable from a scan"


def test_a_filter_that_leaves_nothing_cannot_be_told(build: Build) -> None:
    index, collection = build(300)
    assert used(index, collection, QUERIES, Where(splits=("nowhere",))) == "indistinguishable from a scan"


def test_without_an_index_it_is_a_scan(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=DIM)
    index = EdgeIndex(tmp_path)
    index.create(spec)
    index.upsert(spec.collection, Points([image(number) for number in range(300)], unit(300, DIM)))
    index.optimize(spec.collection)
    assert used(index, spec.collection, QUERIES) == "scan"
    index.close()
