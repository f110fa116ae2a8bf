"""The embedded index: Qdrant Edge, Qdrant's own engine inside this process, one shard folder per collection.

In the index folder, `<collection>/` is the shard and `<collection>.json` its specification. A shard can be open in one
process at a time, so shards are opened at their first use and closed by `close()`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import qdrant_edge as qdrant

from search.errors import CollectionMissing, IndexBusy, IndexFailure
from search.files import replace_file
from search.index.edge import building, space
from search.index.edge.config import config_of
from search.index.edge.filter import NUMBER, filter_of, index_payload, requests_of, scroll
from search.index.edge.records import RecordCache
from search.index.names import kind_of
from search.index.points import Batch, Points, StoredPoint, batch_of, hits_of, id_of
from search.index.protocol import DEFAULT_PARAMS, CollectionInfo, SearchParams
from search.index.spec import CollectionSpec, read_spec
from search.index.tuning import Tuning
from search.index.where import Where
from search.records import Caption, Hit, Image, Vectors
from search.text import shown, to_json

QUERIES_PER_BATCH = 32  # the engine holds the interpreter lock until it has answered a batch
SHARD_CONFIG = "edge_config.json"
READ_ONLY = ("os error 13)", "os error 30)")  # in the engine's errors: no permission, read-only file system
BUILT_IN_PROCESS = 2 * 2**20  # bytes of vectors that are indexed in less time than a process takes to start
BUSY_SECONDS = 3.0  # how long to wait for another process to close a shard


@contextlib.contextmanager
def _engine(doing: str) -> Iterator[None]:
    """Convert the engine's exceptions to IndexFailure."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # the engine raises bare Exception; subclasses come from elsewhere
            raise
        raise IndexFailure(f"{doing} failed: {error}") from error


_until_exit: list[qdrant.EdgeShard] = []
"""Shards that stay open until the process ends."""


class EdgeIndex:
    """The Index protocol on one folder. Reading never creates the folder.

    With `until_exit`, for an index that is only read, `close` leaves shards open, and the process must end by
    `os._exit`: closing a shard writes all of its files to disk again and drops them from the page cache, so that the
    next process reads them from disk. As after SIGKILL, nothing is lost.
    """

    def __init__(self, path: Path, *, until_exit: bool = False) -> None:
        if shown(str(path)) != str(path):
            raise IndexFailure(
                f"the embedded engine cannot open {path}: its name is not valid UTF-8; choose another --path"
            )
        self.path = path
        self._until_exit = until_exit
        self._shards: dict[str, qdrant.EdgeShard] = {}
        self._records: defaultdict[str, RecordCache] = defaultdict(RecordCache)

    @property
    def place(self) -> str:
        return str(self.path)

    @property
    def engine(self) -> str:
        from importlib.metadata import version  # not above: a query does not need it, and it takes 0.02 s to import

        return f"qdrant-edge {version('qdrant-edge-py')}"

    @property
    def streams(self) -> int:
        return 1

    def create(self, spec: CollectionSpec, tuning: Tuning | None = None, *, replace: bool = False) -> list[str]:
        if tuning and (tuning.shards or tuning.replicas):
            raise IndexFailure(
                f"the embedded index {self.path} is a single shard: shards and replicas need a Qdrant server (--url)"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise IndexFailure(f"cannot create the index folder {self.path}: {error.strerror}") from error
        space.check_writable(self.path)
        warnings: list[str] = []
        if spec.collection in self.collections():
            self._shard(spec.collection)  # raises before any change if another process has it open
            if not replace:
                spec, warnings = self.spec(spec.collection).merged(spec)
            if tuning:
                warnings += tuning.differences(spec.collection, self._settings(spec.collection))
        elif (self.path / spec.collection / SHARD_CONFIG).exists():
            raise IndexFailure(
                f"{self.path / spec.collection} contains points, but {spec.collection}.json, their specification, is "
                "missing: restore it, or delete the folder"
            )
        if spec.collection not in self._shards:
            space.check_space(self.path, space.SPARE_BYTES, f"creating {spec.collection}")
        # The specification comes first: if the process is killed between the two, the next one creates the shard.
        self.set_spec(spec)
        if spec.collection not in self._shards:
            self._shards[spec.collection] = _open(self.path / spec.collection, lambda: spec, tuning)
        with _engine(f"indexing the payload of {spec.collection}"):
            index_payload(self._shards[spec.collection], spec)
        return warnings

    def collections(self) -> list[str]:
        return sorted(
            file.stem
            for kind in ("images", "captions")
            for file in self.path.glob(f"*_{kind}.json")
            if (self.path / file.stem / SHARD_CONFIG).is_file()
        )

    def upsert(self, collection: str, points: Points) -> None:
        rows = zip(points.records, points.vectors.tolist(), strict=True)
        batch = [qdrant.Point(record.id, vector, record.payload()) for record, vector in rows]
        self._write(collection, [qdrant.UpdateOperation.upsert_points(batch)])

    def set_payload(self, collection: str, records: Sequence[Image | Caption]) -> None:
        self.set_fields(collection, {record.id: record.changes() for record in records})

    def set_fields(self, collection: str, fields: Mapping[int, Mapping[str, Any]]) -> None:
        # The engine merges: it deletes fields that are None and keeps fields that are not mentioned.
        operations = [qdrant.UpdateOperation.set_payload([each], dict(changed)) for each, changed in fields.items()]
        self._write(collection, operations)

    def set_vectors(self, collection: str, points: Points) -> None:
        rows = zip(points.records, points.vectors.tolist(), strict=True)
        batch = [qdrant.PointVectors(record.id, vector) for record, vector in rows]
        self._write(collection, [qdrant.UpdateOperation.update_vectors(batch)])

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        self._write(collection, [qdrant.UpdateOperation.delete_points(list(ids))])

    def query(
        self, collection: str, vectors: Vectors, limit: int, params: SearchParams = DEFAULT_PARAMS
    ) -> list[list[Hit]]:
        shard = self._shard(collection)
        requests = requests_of(vectors, limit, params, kind_of(collection))

        def read(ids: list[int]) -> Sequence[StoredPoint]:
            return shard.retrieve([*ids], NUMBER if params.hubness else True, False)

        if params.hubness and self._records[collection].needs_all_numbers:
            with _engine(f"reading {collection}"):
                self._records[collection].read_all_numbers(chain.from_iterable(scroll(shard, payload=NUMBER)))
        answers: list[list[Hit]] = []
        for start in range(0, len(requests), QUERIES_PER_BATCH):
            with _engine(f"searching {collection}"):
                results = shard.query_batch(qdrant.QueryBatchRequest(requests[start : start + QUERIES_PER_BATCH]))
                if params.hubness:
                    answers += self._records[collection].corrected(read, results, params.hubness, params.keep)
                elif params.payload:
                    answers += self._records[collection].hits(read, results, per_image=params.per_image)
                else:
                    answers += map(hits_of, results)
        return answers

    def retrieve(self, collection: str, ids: Sequence[int], *, vectors: bool = False) -> Batch:
        shard = self._shard(collection)
        with _engine(f"reading {len(ids)} points of {collection}"):
            if not vectors:
                return Batch(self._records[collection].records(lambda some: shard.retrieve([*some], True, False), ids))
            points = {id_of(point): point for point in shard.retrieve(list(ids), True, True)}
        return batch_of([points[point_id] for point_id in ids if point_id in points], vectors)

    def scan(self, collection: str, *, where: Where | None = None, vectors: bool = False) -> Iterator[Batch]:
        shard = self._shard(collection)
        with _engine(f"reading {collection}"):
            for points in scroll(shard, filter_of(where, kind_of(collection)), vectors=vectors):
                yield batch_of(points, vectors)

    def count(self, collection: str, *, where: Where | None = None) -> int:
        shard = self._shard(collection)
        with _engine(f"counting {collection}"):
            return shard.count(qdrant.CountRequest(exact=True, filter=filter_of(where, kind_of(collection))))

    def defer_indexing(self, collection: str) -> None:
        pass  # only `optimize` builds the index

    def served_model(self) -> None:
        return None

    def silent_nodes(self) -> list[str]:
        return []

    def pending(self, collection: str, *, exact: bool = False) -> str | None:  # noqa: ARG002
        return None

    def optimize(self, collection: str, report: Callable[[int], None] | None = None) -> None:  # noqa: ARG002
        shard = self._shard(collection)
        folder, points = self.path / collection, self.count(collection)
        if building.is_built(folder):
            return
        with _engine(f"reading {collection}"):
            unindexed = points - shard.info().indexed_vectors_count
        if unindexed > 0:
            space.check_space(folder, space.bytes_to_build(folder), f"building the HNSW index of {collection}")
        if 4 * self.spec(collection).dim * points <= BUILT_IN_PROCESS:
            with _engine(f"building the HNSW index of {collection}"):
                shard.optimize()
        else:
            self._release(collection)  # only one process can have a shard open
            building.build_in_child(folder)
        building.set_built(folder, True)

    def spec(self, collection: str) -> CollectionSpec:
        if collection not in self.collections():
            known = ", ".join(self.collections())
            content = f"it contains {known or 'nothing'}" if self.path.is_dir() else "there is no such folder"
            data_set = "name another data set with --dataset, " if known else ""
            raise CollectionMissing(
                f"no collection {collection} in {self.path} ({content}): "
                f"run `python -m ingest run`, {data_set}or give the location of the index with --path or --url"
            )
        try:
            stored = json.loads(self._spec_file(collection).read_text(encoding="utf-8"))
        except ValueError:
            stored = None
        return read_spec(collection, stored)

    def set_spec(self, spec: CollectionSpec) -> None:
        replace_file(self._spec_file(spec.collection), to_json(spec.as_json(), indent=1))
        if spec.collection in self._shards:  # one that is not open is indexed when it is opened
            with _engine(f"indexing the payload of {spec.collection}"):
                index_payload(self._shards[spec.collection], spec, missing_only=True)

    def info(self, collection: str) -> CollectionInfo:
        shard = self._shard(collection)
        with _engine(f"reading {collection}"):
            indexed = shard.info().indexed_vectors_count
        settings = self._settings(collection)
        return CollectionInfo(collection, self.count(collection), indexed, self.spec(collection), settings)

    def disk_bytes(self, collection: str) -> int:
        with _engine(f"flushing {collection}"):
            self._shard(collection).flush()
        return sum(file.stat().st_blocks * 512 for file in (self.path / collection).rglob("*") if file.is_file())

    def drop(self, collection: str) -> None:
        dropped = self.path / f".{collection}.dropped"
        if collection in self.collections():
            self._shard(collection)  # raises if another process has it open
            self._release(collection)
            building.set_built(self.path / collection, False)
            shutil.rmtree(dropped, ignore_errors=True)  # left by a killed process
            (self.path / collection).rename(dropped)  # a shard without its specification must never be opened again
        self._spec_file(collection).unlink(missing_ok=True)
        shutil.rmtree(dropped, ignore_errors=True)

    def close(self) -> None:
        if self._until_exit:
            _until_exit.extend(self._shards.values())
            self._shards.clear()
        for collection in list(self._shards):
            self._release(collection)

    def _write(self, collection: str, operations: Sequence[qdrant.UpdateOperation]) -> None:
        shard = self._shard(collection)
        space.check_space(self.path, space.SPARE_BYTES, "writing")
        building.set_built(self.path / collection, False)
        try:
            with _engine(f"writing into {collection}"):
                for operation in operations:
                    shard.update(operation)
        finally:
            self._records[collection].clear()

    def _spec_file(self, collection: str) -> Path:
        return self.path / f"{collection}.json"

    def _settings(self, collection: str) -> dict[str, Any]:
        """Return the settings of CollectionInfo, read from the shard's configuration or an indexed segment's."""
        folder = self.path / collection
        config = json.loads((folder / SHARD_CONFIG).read_text(encoding="utf-8"))
        vectors = config["vectors"][""]
        hnsw = config.get("hnsw_config") or {}
        for file in [] if hnsw else folder.glob("segments/*/segment.json"):
            index = json.loads(file.read_text(encoding="utf-8"))["config"]["vector_data"][""]["index"]
            hnsw = index["options"] if index["type"] == "hnsw" else hnsw
        quantization = next(iter(config.get("quantization_config") or {"none": {}}))
        with _engine(f"reading {collection}"):
            segments = self._shard(collection).info().segments_count
        return {
            **{name: hnsw.get(name) for name in ("m", "ef_construct", "full_scan_threshold")},
            "indexing_threshold": (config.get("optimizers") or {}).get("indexing_threshold"),
            "quantization": "int8" if quantization == "scalar" else quantization,
            "on_disk": vectors.get("on_disk") or False,
            "shards": None,
            "replicas": None,
            "segments": segments,
        }

    def _shard(self, collection: str) -> qdrant.EdgeShard:
        if collection not in self._shards:
            self._shards[collection] = _open(self.path / collection, lambda: self.spec(collection))
        return self._shards[collection]

    def _release(self, collection: str) -> None:
        shard = self._shards.pop(collection)
        self._records.pop(collection, None)
        with _engine(f"closing {collection}"):
            shard.flush()
            shard.close()


def _open(folder: Path, spec: Callable[[], CollectionSpec], tuning: Tuning | None = None) -> qdrant.EdgeShard:
    """Open a shard, or create it with `tuning`; wait up to BUSY_SECONDS if another process has it open.

    `spec` is called once no other process can change what it returns.
    """
    if (folder / SHARD_CONFIG).exists():
        space.check_writable(folder.parent)
        space.check_writable(folder)
        space.check_space(folder, space.bytes_to_open(folder), f"opening {folder.name}")
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            with _engine(f"opening {folder}"):
                shard = _load_or_create(folder, spec, tuning or Tuning())
            break
        except IndexFailure as failure:
            if any(word in str(failure) for word in READ_ONLY):
                raise space.read_only(folder) from failure
            if "WouldBlock" not in str(failure):  # the engine's error for a locked write-ahead log
                raise
            if time.monotonic() > deadline:
                raise IndexBusy(
                    f"{folder} is open in another process{_holder(folder)}: wait for it or stop it "
                    "(only one process can open it; a Qdrant server with --url serves many)"
                ) from None
            time.sleep(0.1)
    _owner_file(folder).write_text(shown(f"{os.getpid()} {' '.join(sys.orig_argv)}\n"), encoding="utf-8")
    shutil.rmtree(folder / "temp_segments", ignore_errors=True)  # left by a killed optimisation
    return shard


def _load_or_create(folder: Path, spec: Callable[[], CollectionSpec], tuning: Tuning) -> qdrant.EdgeShard:
    if (folder / SHARD_CONFIG).exists():
        shard = qdrant.EdgeShard.load(str(folder))
    else:
        shard = qdrant.EdgeShard.create(str(folder), config_of(spec().dim, tuning))
    index_payload(shard, spec(), missing_only=True)
    return shard


def _owner_file(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.owner")


def _holder(folder: Path) -> str:
    """Return " (process 42: python -m search serve)", as written by the last process that opened it, or ""."""
    try:
        pid, _, command = _owner_file(folder).read_text(encoding="utf-8").strip().partition(" ")
    except OSError:
        return ""
    without_folders = re.sub(r"\S*/", "", command)
    return f" (process {pid}: {without_folders})"


def _optimize(path: str, collection: str) -> None:
    """Build the HNSW index; runs in the child process of `build_in_child`."""
    index = EdgeIndex(Path(path))
    index._shard(collection).optimize()
    index.close()
