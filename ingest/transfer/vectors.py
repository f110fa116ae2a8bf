"""Read vectors that any model computed: a Parquet or .npz file with integer ids and, for each, a vector of floats.

A .npz file has the arrays `ids` (n,) and `vectors` (n, dim), a Parquet file the columns `id` and `vector`; either may
use the names of the other. Vectors are read in blocks, so a file may be larger than the memory.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from ingest.transfer.parquet import import_pyarrow, open_parquet
from search.errors import IndexFailure, InvalidPoints
from search.records import Vectors

if TYPE_CHECKING:
    import pyarrow

IDS, VECTORS = ("ids", "id"), ("vectors", "vector")
ROWS_PER_BLOCK = 1000
NEARLY_UNIT = 1e-6  # of the squared length; the engines do not scale such a vector either, so its bits are kept
FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}  # Arrow's names, and NumPy's
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows: `ids` int64 (n,); `vectors`, floats (n, dim); `widths` int64 (n,), the length of each row.

    Rows of another width than `dim` are NaN.
    """

    ids: Ids
    vectors: npt.NDArray[np.floating[Any]]
    widths: Ids

    def unit(self) -> tuple[Vectors, dict[int, str]]:
        """Return float32 (n, dim) of unit length, and for each row without a usable vector the reason.

        A vector that is of unit length already is only rounded to float32. Unusable ones are NaN.
        """
        with np.errstate(over="ignore"):  # what a long double holds may be infinite here
            exact = self.vectors.astype(np.float64)
        dim = exact.shape[1]
        largest = np.abs(exact).max(axis=1)
        faults = {
            row: f"the vector has {self.widths[row]:,} dimensions, not {dim:,}"
            if self.widths[row] != dim
            else "the vector is zero"
            if largest[row] == 0
            else "the vector is NaN or infinite"
            for row in np.flatnonzero((self.widths != dim) | ~np.isfinite(largest) | (largest == 0)).tolist()
        }
        largest[list(faults)] = np.nan
        scaled = exact / largest[:, None]  # the squares of the numbers themselves may overflow, or be zero
        scaled_length = np.linalg.norm(scaled, axis=1)
        with np.errstate(over="ignore"):
            is_unit = np.abs((largest * scaled_length) ** 2 - 1) <= NEARLY_UNIT
        vectors = np.where(is_unit[:, None], exact, scaled / scaled_length[:, None])
        vectors[list(faults)] = np.nan
        return vectors.astype(np.float32), faults


class VectorFile(Protocol):
    """A file of vectors; `dtype` is the number type of the vectors, such as "float16"."""

    file: Path
    ids: Ids
    dim: int
    dtype: str

    def blocks(self) -> Iterator[Block]:
        """Yield all rows, in order.

        Raises:
            IndexFailure: the file is damaged.
        """
        ...


def open_vectors(file: Path) -> VectorFile:
    """Open a file, whose format is recognised by its first bytes.

    Raises:
        IndexFailure: it is damaged, or neither Parquet nor .npz.
        InvalidPoints: it does not hold ids and vectors.
        SettingsError: it is Parquet, and pyarrow is not installed.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        start = stream.read(6)
    if start.startswith(b"PAR1"):
        return _ParquetVectors(file)
    if start.startswith(b"PK"):
        return _NpzVectors(file)
    if start == b"\x93NUMPY":
        raise InvalidPoints(
            f"{file} is a single array without ids: save both with np.savez(FILE, ids=..., vectors=...)"
        )
    raise IndexFailure(f"{file} is neither a Parquet file nor a .npz file")


class _NpzVectors:
    """The arrays `ids` and `vectors` of a .npz file, which are read without pickle."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with _open_npz(file) as archive:
            with self._array(archive, IDS) as ids:
                _check_ids(file, ids.shape, ids.dtype)
                self.ids = _as_int64(file, ids.rows(ids.shape[0]))
                ids.end()
            with self._array(archive, VECTORS) as vectors:
                shape, dtype = vectors.shape, vectors.dtype
        if dtype.kind != "f" or len(shape) != 2 or not shape[1]:
            raise InvalidPoints(f"{file}: vectors has shape {shape} of {dtype}, and should have (n, dim) of floats")
        if shape[0] != len(self.ids):
            raise InvalidPoints(f"{file} has {len(self.ids):,} ids and {shape[0]:,} vectors")
        self.dim, self.dtype = shape[1], dtype.name

    def blocks(self) -> Iterator[Block]:
        with _open_npz(self.file) as archive, self._array(archive, VECTORS) as array:
            for start in range(0, len(self.ids), ROWS_PER_BLOCK):
                ids = self.ids[start : start + ROWS_PER_BLOCK]
                yield Block(ids, array.rows(len(ids)), np.full(len(ids), self.dim))
            array.end()

    @contextmanager
    def _array(self, archive: zipfile.ZipFile, names: Sequence[str]) -> Iterator[_Array]:
        members = archive.namelist()
        name = next((f"{name}.npy" for name in names if f"{name}.npy" in members), None)
        if name is None:
            known = ", ".join(member.removesuffix(".npy") for member in members) or "nothing"
            raise InvalidPoints(f"{self.file} has no array {names[0]} (it has {known})")
        with archive.open(name) as stream:
            yield _Array(self.file, name, stream)


class _Array:
    """One array of a .npz file, read from its first row to its last."""

    def __init__(self, file: Path, name: str, stream: IO[bytes]) -> None:
        self._place, self._stream = f"{file}: {name}", stream
        version = npy.read_magic(stream)
        if version not in HEADERS:
            raise IndexFailure(f"{self._place} has version {version} of the .npy format: save it again as floats")
        self.shape, by_column, self.dtype = HEADERS[version](stream)
        if self.dtype.hasobject:
            raise InvalidPoints(f"{self._place} holds Python objects, which are not loaded: save it as numbers")
        self._whole: npt.NDArray[Any] | None = None
        if by_column and len(self.shape) == 2:  # no row is complete before the last column
            self._whole = self._read(math.prod(self.shape)).reshape(self.shape, order="F")
        self._next = 0

    def rows(self, count: int) -> npt.NDArray[Any]:
        """Return the next rows."""
        self._next += count
        if self._whole is not None:
            return self._whole[self._next - count : self._next]
        return self._read(count * math.prod(self.shape[1:])).reshape(count, *self.shape[1:])

    def end(self) -> None:
        """Raise IndexFailure unless all rows have been read; zipfile verifies the checksum here."""
        if self._stream.read(1):
            raise IndexFailure(f"{self._place} is longer than its shape {self.shape}")

    def _read(self, count: int) -> npt.NDArray[Any]:
        content = self._stream.read(count * self.dtype.itemsize)
        if len(content) < count * self.dtype.itemsize:
            raise IndexFailure(f"{self._place} ends before its shape {self.shape} is complete")
        return np.frombuffer(content, self.dtype, count)


class _ParquetVectors:
    """The columns `id` and `vector` of a Parquet file."""

    def __init__(self, file: Path) -> None:
        arrow = import_pyarrow()
        self.file = file
        with open_parquet(file) as parquet:
            schema = parquet.schema_arrow
            id_field, field = (_column(file, schema, names) for names in (IDS[::-1], VECTORS[::-1]))
            is_list = any(
                check(field.type)
                for check in (arrow.types.is_list, arrow.types.is_large_list, arrow.types.is_fixed_size_list)
            )
            if not (is_list and arrow.types.is_floating(field.type.value_type)):
                raise InvalidPoints(f"{file}: the column {field.name} is {field.type}, and should be a list of floats")
            if not arrow.types.is_integer(id_field.type):
                raise InvalidPoints(f"{file}: the column {id_field.name} is {id_field.type}, and should be integers")
            ids = parquet.read(columns=[id_field.name]).column(id_field.name)
            if ids.null_count:
                raise InvalidPoints(f"{file}: {ids.null_count:,} rows have no id")
            self.ids = _as_int64(file, ids.to_numpy())
            self._name, self.dtype = field.name, FLOATS[str(field.type.value_type)]
            self.dim = self._most_common_width(parquet)
        if len(self.ids) and not self.dim:
            raise InvalidPoints(f"{file}: the vectors have no dimensions")

    def blocks(self) -> Iterator[Block]:
        start = 0
        with open_parquet(self.file) as parquet:
            for column in self._columns(parquet):
                widths, numbers = _widths(column), column.flatten().to_numpy(zero_copy_only=False)
                vectors = np.full((len(widths), self.dim), np.nan, numbers.dtype)
                vectors[widths == self.dim] = numbers[np.repeat(widths == self.dim, widths)].reshape(-1, self.dim)
                yield Block(self.ids[start : start + len(widths)], vectors, widths)
                start += len(widths)

    def _most_common_width(self, parquet: pyarrow.parquet.ParquetFile) -> int:
        """Return the most common length of the first vectors; nulls and empty lists do not count. 0: there are none."""
        widths = Counter[int]()
        for column in self._columns(parquet):
            widths.update(width for width in _widths(column).tolist() if width)
            if widths.total() >= ROWS_PER_BLOCK:
                break
        return widths.most_common(1)[0][0] if widths else 0

    def _columns(self, parquet: pyarrow.parquet.ParquetFile) -> Iterator[pyarrow.Array]:
        for batch in parquet.iter_batches(batch_size=ROWS_PER_BLOCK, columns=[self._name]):
            yield batch.column(self._name)


@contextmanager
def _open_npz(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    # ValueError: the header of an array; RuntimeError: an encrypted member, or an unknown compression
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
        raise IndexFailure(f"{file} is not a .npz file, or is damaged: {error}") from error


def _column(file: Path, schema: pyarrow.Schema, names: Sequence[str]) -> pyarrow.Field:
    name = next((name for name in names if schema.names.count(name) == 1), None)
    if name is None:
        raise InvalidPoints(f"{file} has no column {names[0]} (it has {', '.join(schema.names) or 'nothing'})")
    return schema.field(name)


def _widths(column: pyarrow.Array) -> Ids:
    """Return the lengths of lists, int64 (n,); 0 for a null."""
    import pyarrow.compute as compute

    widths: Ids = compute.fill_null(compute.list_value_length(column), 0).to_numpy().astype(np.int64)
    return widths


def _check_ids(file: Path, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "iu" or len(shape) != 1:
        raise InvalidPoints(f"{file}: ids has shape {tuple(shape)} of {dtype}, and should have (n,) of integers")


def _as_int64(file: Path, ids: npt.NDArray[Any]) -> Ids:
    if len(ids) and (ids.max() > np.iinfo(np.int64).max or ids.min() < 0):
        raise InvalidPoints(f"{file}: the ids reach from {ids.min()} to {ids.max()}, and must be between 0 and 2^63")
    return ids.astype(np.int64)
