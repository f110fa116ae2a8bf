"""Write a collection into a Parquet file, and read such a file again.

Columns: `id`, one for each field of the payload, `extra` (as JSON, the fields that users added) and `vector`
(fixed-size list of float32). The file's metadata has the specification of the collection, as JSON, under METADATA_KEY.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from search.errors import IndexFailure, InvalidPoints, SettingsError
from search.files import replacing
from search.index import Batch, CollectionSpec, Points, ReadIndex
from search.index.spec import read_spec
from search.records import Caption, Image, Kind, record_of
from search.text import parse_json, to_json

if TYPE_CHECKING:
    import pyarrow

METADATA_KEY = b"coco_search"
ROW_GROUP_BYTES, ROW_GROUP_ROWS = 32 * 2**20, 20_000  # whichever is less, of vectors; writers keep one in memory
POINTS_PER_BATCH = 1000
READ_BUFFER = 2**20  # bytes; without one, a whole row group is read at once
ID_FIELD: Mapping[Kind, str] = {"images": "image_id", "captions": "caption_id"}
"""The field of a payload that is in the column `id`."""
FLAGS = {"stale", "truncated"}  # only true ones are in a payload
REQUIRED = {"id", "image_id", "split", "order", "file", "captions", "position", "text", "vector"}


def export_collection(index: ReadIndex, collection: str, file: Path) -> int:
    """Write all points of a collection, in ascending order of ids, and return their number.

    `file` appears once it is complete. Vectors are written as they are stored, to the bit.

    Raises:
        SettingsError: pyarrow is not installed.
        IndexFailure: the collection is written to meanwhile, or holds a payload that this project did not write.
        OSError: the file cannot be written.
    """
    arrow = import_pyarrow()
    spec, count, written = index.spec(collection), index.count(collection), 0
    schema = _schema(spec)
    metadata = {METADATA_KEY: to_json(spec.as_json()).encode()}
    compressed = [field.name for field in schema if field.name != "vector"]  # vectors hardly compress
    per_group = min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // (4 * spec.dim))
    bar = tqdm(desc=f"exporting {collection}", total=count, unit=" points", file=sys.stderr, dynamic_ncols=True)
    with bar, replacing(file) as partial, partial.open("wb") as stream:
        with arrow.parquet.ParquetWriter(
            stream, schema.with_metadata(metadata), use_dictionary=compressed, compression="zstd"
        ) as writer:
            for group in _groups(index.scan(collection, vectors=True), per_group):
                table = arrow.Table.from_batches([_to_arrow(collection, schema, batch) for batch in group])
                writer.write_table(table, row_group_size=len(table))
                written += len(table)
                bar.update(len(table))
        if written != index.count(collection):
            raise IndexFailure(f"{collection} at {index.place} is being written to: run the command again later")
    return written


class ParquetCollection:
    """A file that `export_collection` wrote.

    Args:
        dataset: a new name for its data set.

    Raises:
        SettingsError: pyarrow is not installed.
        IndexFailure: the file is damaged, or was not written by `export_collection`.
        OSError: the file cannot be read.
    """

    def __init__(self, file: Path, dataset: str | None = None) -> None:
        self.file = file
        metadata: Mapping[bytes, bytes] = {}
        if is_parquet(file):
            with open_parquet(file) as parquet:
                metadata, schema = parquet.metadata.metadata or {}, parquet.schema_arrow
                self.count: int = parquet.metadata.num_rows
        if METADATA_KEY not in metadata:
            raise IndexFailure(
                f"{file} was not written by `python -m ingest export`: if it has ids and vectors, import it with "
                "--image-vectors or --caption-vectors"
            )
        try:
            stored = json.loads(metadata[METADATA_KEY])
        except ValueError:
            stored = None
        spec = read_spec(str(file), stored)
        self.spec = replace(spec, dataset=dataset) if dataset else spec
        self._check(schema)
        self._check_ids()

    @property
    def place(self) -> str:
        return str(self.file)

    def _check(self, schema: pyarrow.Schema) -> None:
        """Raise IndexFailure unless the file has exactly the columns that `export_collection` writes."""
        expected = {field.name: field.type for field in _schema(self.spec)}
        columns = {field.name: field.type for field in schema}
        for name in {**expected, **columns}:
            if not (name in columns and name in expected and columns[name].equals(expected[name])):
                raise IndexFailure(
                    f"{self.file}: the column {name} is {columns.get(name, 'missing')}, and should be "
                    f"{expected.get(name, 'absent')}: export the collection again"
                )

    def _check_ids(self) -> None:
        """Raise IndexFailure if an id occurs more than once: the points would replace each other."""
        with open_parquet(self.file) as parquet:
            ids = parquet.read(columns=["id"]).column("id").drop_null().to_numpy()
        values, times = np.unique(ids, return_counts=True)
        if len(repeated := values[times > 1]):
            more = f", and so do {len(repeated) - 1:,} other ids" if repeated[1:].size else ""
            raise IndexFailure(f"{self.file}: the id {repeated[0]} occurs more than once{more}")

    def points(self) -> Iterator[Points]:
        """Yield the points, in batches.

        Raises:
            IndexFailure: the file is damaged, or its content is not valid.
        """
        with open_parquet(self.file) as parquet:
            for number, batch in enumerate(parquet.iter_batches(batch_size=POINTS_PER_BATCH)):
                first = number * POINTS_PER_BATCH
                for name in REQUIRED.intersection(batch.schema.names):
                    if batch.column(name).null_count:
                        raise IndexFailure(f"{self.file}: the column {name} has a null in or after row {first:,}")
                vectors = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
                try:
                    rows = batch.select([name for name in batch.schema.names if name != "vector"]).to_pylist()
                    records = [self._record(row) for row in rows]
                    yield Points(records, vectors.reshape(len(batch), self.spec.dim))
                except (ValueError, RecursionError, InvalidPoints) as error:
                    raise IndexFailure(f"{self.file}, in or after row {first:,}: {error}") from None

    def _record(self, row: dict[str, Any]) -> Image | Caption:
        """Return the record of a row. Raises ValueError if its column `extra` is not a JSON object."""
        columns = {name: value for name, value in row.items() if value is not None}
        extra = columns.pop("extra", "{}")
        added = parse_json(extra)
        if not isinstance(added, dict):
            raise ValueError(f"the column extra is not a JSON object, but {extra[:40]!r}")
        return record_of({**added, ID_FIELD[self.spec.kind]: columns.pop("id"), **columns})


def is_parquet(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"


@contextmanager
def open_parquet(file: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open any Parquet file; errors of the library within the block become an IndexFailure."""
    arrow = import_pyarrow()
    with file.open("rb") as stream:
        try:
            yield arrow.parquet.ParquetFile(stream, buffer_size=READ_BUFFER)
        except (arrow.ArrowException, OSError) as error:
            reason = str(error).partition("\n")[0].rstrip(". ")
            raise IndexFailure(f"{file} is not a Parquet file, or is damaged: {reason}") from error


def import_pyarrow() -> Any:
    """Return pyarrow. Raises SettingsError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SettingsError("Parquet files need pyarrow: pip install 'coco-search[parquet]'") from error
    return pyarrow


def _schema(spec: CollectionSpec) -> pyarrow.Schema:
    arrow = import_pyarrow()
    text, number, yes = arrow.string(), arrow.int64(), arrow.bool_()
    photo = arrow.struct([("bytes", number), ("modified", number), ("blake2b", text)])
    payload: dict[Kind, dict[str, Any]] = {
        "images": {
            "split": text,
            "order": number,
            "file": text,
            "captions": arrow.list_(text),
            "url": text,
            "photo": photo,
            "stale": yes,
            "hubness": arrow.float64(),
        },
        "captions": {
            "image_id": number,
            "split": text,
            "position": number,
            "text": text,
            "url": text,
            "truncated": yes,
            "stale": yes,
        },
    }
    columns = {"id": number, **payload[spec.kind], "extra": text, "vector": arrow.list_(arrow.float32(), spec.dim)}
    return arrow.schema([arrow.field(name, kind, nullable=name not in REQUIRED) for name, kind in columns.items()])


def _groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield batches in lists of at least `size` points, except for the last one."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if sum(len(each.records) for each in group) >= size:
            yield group
            group = []
    if group:
        yield group


def _to_arrow(collection: str, schema: pyarrow.Schema, batch: Batch) -> pyarrow.RecordBatch:
    arrow = import_pyarrow()
    assert batch.vectors is not None
    numbers = arrow.array(np.ascontiguousarray(batch.vectors).ravel())
    rows = [_row(record, schema.names) for record in batch.records]
    try:
        columns = [
            arrow.FixedSizeListArray.from_arrays(numbers, type=field.type)
            if field.name == "vector"
            else arrow.array([row[field.name] for row in rows], type=field.type)
            for field in schema
        ]
    except (arrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise IndexFailure(
            f"{collection}: a payload between the ids {batch.records[0].id} and {batch.records[-1].id} was not written "
            f"by this software: {error}"
        ) from None
    return arrow.RecordBatch.from_arrays(columns, schema=schema)


def _row(record: Image | Caption, names: Sequence[str]) -> dict[str, Any]:
    """Return the columns of a record, without its vector; a field of the payload without a column goes into `extra`."""
    fields = {
        name: value
        for name, value in record.fields().items()
        if name != ("image_id" if isinstance(record, Image) else "caption_id")
    }
    row = {name: fields.pop(name, False if name in FLAGS else None) for name in names}
    rest = {**(record.extra or {}), **fields}
    return {**row, "id": record.id, "extra": to_json(rest) if rest else None}
