"""What is specific to the embedded engine: one process at a time, kills, and files on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from points import fill, image, unit

from search.errors import CollectionMissing, IndexBusy, IndexFailure, SpecMismatch
from search.index import CollectionSpec, Points, Quantization, SearchParams, Tuning
from search.index.edge import space
from search.index.edge.index import EdgeIndex
from search.records import Hit, Vectors
from search.text import to_json

MakeSpec = Callable[..., CollectionSpec]


@contextmanager
def another_process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run code that prints a line when it is ready."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


HOLD = """
    import sys
    from pathlib import Path
    from search.index.edge.index import EdgeIndex
    index = EdgeIndex(Path(sys.argv[1]))
    index.count(sys.argv[2])
    print("open", flush=True)
    sys.stdin.readline()
    index.close()
"""


@pytest.fixture
def filled(tmp_path: Path, make_spec: MakeSpec) -> tuple[Path, CollectionSpec]:
    spec = make_spec()
    index = EdgeIndex(tmp_path / "index")
    index.create(spec)
    fill(index, spec, 10)
    index.close()
    return index.path, spec


def test_reading_creates_no_shard(filled: tuple[Path, CollectionSpec]) -> None:
    path, spec = filled
    shutil.rmtree(path / spec.collection)
    with pytest.raises(CollectionMissing):
        EdgeIndex(path).count(spec.collection)
    assert not (path / spec.collection).exists()


def test_a_refused_creation_changes_nothing(
    filled: tuple[Path, CollectionSpec], make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, spec = filled
    monkeypatch.setattr("search.index.edge.index.BUSY_SECONDS", 0.1)
    with another_process(HOLD, str(path), spec.collection) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(IndexBusy):
            EdgeIndex(path).create(make_spec(photos="/elsewhere"))
    assert EdgeIndex(path).spec(spec.collection) == spec


def test_other_files_in_the_folder_are_ignored(filled: tuple[Path, CollectionSpec]) -> None:
    path, spec = filled
    (path / "notes.json").write_text("{}")
    (path / "notes").mkdir()
    assert EdgeIndex(path).collections() == [spec.collection]


def test_points_survive_closing(filled: tuple[Path, CollectionSpec]) -> None:
    path, spec = filled
    index = EdgeIndex(path)
    assert index.count(spec.collection) == 10
    assert index.spec(spec.collection) == spec
    index.close()


def test_reading_creates_no_folder(tmp_path: Path) -> None:
    index = EdgeIndex(tmp_path / "nothing")
    assert index.collections() == []
    assert not index.path.exists()


def test_a_second_process_learns_which_one_has_the_index_open(
    filled: tuple[Path, CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, spec = filled
    monkeypatch.setattr("search.index.edge.index.BUSY_SECONDS", 0.2)
    with another_process(HOLD, str(path), spec.collection) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(IndexBusy, match=f"process {holder.pid}"):
            EdgeIndex(path).count(spec.collection)
        assert EdgeIndex(path).spec(spec.collection) == spec  # does not open the shard


def test_opening_waits_for_a_short_use_by_another_process(filled: tuple[Path, CollectionSpec]) -> None:
    path, spec = filled
    with another_process(HOLD, str(path), spec.collection) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "open\n"
        index = EdgeIndex(path)
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert index.count(spec.collection) == 10
        index.close()


def test_a_command_that_only_reads_leaves_the_index_as_it_is(filled: tuple[Path, CollectionSpec]) -> None:
    folder, spec = filled
    EdgeIndex(folder).count(spec.collection)  # the engine adds files when it first opens a shard
    before = contents(folder / spec.collection)
    command = [sys.executable, "-m", "search", "image", "3", "--to", "images", "--json", "--path", str(folder)]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert outputs[0] == outputs[1]
    assert '"image_id"' in outputs[0]
    assert contents(folder / spec.collection) == before
    index = EdgeIndex(folder)
    index.upsert(spec.collection, Points([image(3)], unit(1)))
    index.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_acknowledged_points_survive_sigkill(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=8)
    path = tmp_path / "index"
    EdgeIndex(path).create(spec)
    code = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[3])
        from points import image, unit
        from search.index import Points
        from search.index.edge.index import EdgeIndex
        index = EdgeIndex(Path(sys.argv[1]))
        for start in range(0, 1_000_000, 50):
            points = Points([image(number) for number in range(start, start + 50)], unit(50, 8, seed=start))
            index.upsert(sys.argv[2], points)
            print(start, flush=True)
    """
    with another_process(code, str(path), spec.collection, str(Path(__file__).parent)) as writer:
        assert writer.stdout
        last = 0
        while last < 1000:
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last = max([last, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    index = EdgeIndex(path)
    assert index.count(spec.collection) >= last + 50
    stored = index.retrieve(spec.collection, range(last, last + 50), vectors=True)
    assert stored.records == [image(number) for number in range(last, last + 50)]
    assert stored.vectors is not None
    np.testing.assert_allclose(stored.vectors, unit(50, 8, seed=last), atol=1e-6)
    index.close()


def test_killed_between_specification_and_shard(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = make_spec()
    (tmp_path / f"{spec.collection}.json").write_text(to_json(spec.as_json()))
    index = EdgeIndex(tmp_path)
    assert index.collections() == []
    index.create(spec)
    assert fill(index, spec, 3).shape == (3, 4)
    assert index.count(spec.collection) == 3
    index.close()


def test_remains_of_a_killed_optimisation_are_deleted(filled: tuple[Path, CollectionSpec]) -> None:
    path, spec = filled
    rubbish = path / spec.collection / "temp_segments" / "left-over"
    rubbish.mkdir(parents=True)
    index = EdgeIndex(path)
    assert index.count(spec.collection) == 10
    assert not rubbish.exists()
    index.close()


def test_hnsw_is_built_above_the_threshold(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=2048)
    index = EdgeIndex(tmp_path)
    index.create(spec)
    index.upsert(spec.collection, Points([image(number) for number in range(1500)], unit(1500, 2048)))
    assert index.info(spec.collection).indexed_vectors == 0
    index.optimize(spec.collection)
    assert index.info(spec.collection).indexed_vectors == 1500
    index.close()


def test_index_everything_survives_reopening(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=64)
    index = EdgeIndex(tmp_path)
    index.create(spec, Tuning(index_everything=True))
    for first in (0, 50):
        index.upsert(
            spec.collection, Points([image(number) for number in range(first, first + 50)], unit(50, 64, seed=first))
        )
        index.optimize(spec.collection)  # closes and opens the shard
        assert index.info(spec.collection).indexed_vectors == first + 50
    settings = index.info(spec.collection).settings
    assert (settings["indexing_threshold"], settings["full_scan_threshold"]) == (1, 0)
    queries = unit(200, 64, seed=9)
    exact = index.query(spec.collection, queries, 1, SearchParams(exact=True))
    assert index.query(spec.collection, queries, 1, SearchParams(ef=100)) == exact
    assert index.query(spec.collection, queries, 1, SearchParams(ef=1)) != exact
    index.close()


@pytest.mark.parametrize("quantization", ["int8", "binary"])
def test_quantisation_takes_effect(tmp_path: Path, make_spec: MakeSpec, quantization: Quantization) -> None:
    spec = make_spec(dim=64)
    index = EdgeIndex(tmp_path)
    tuning = Tuning(quantization, index_everything=True)
    index.create(spec, tuning)
    fill(index, spec, 300)
    index.optimize(spec.collection)
    index.close()

    index = EdgeIndex(tmp_path)
    assert index.create(spec, tuning) == []
    assert index.info(spec.collection).settings["quantization"] == quantization
    queries = unit(50, 64, seed=9)
    exact = scores(index.query(spec.collection, queries, 1, SearchParams(exact=True)))
    rough = scores(index.query(spec.collection, queries, 1, SearchParams(ef=300, rescore=False)))
    rescored = scores(index.query(spec.collection, queries, 1, SearchParams(ef=300, rescore=True, oversampling=300.0)))
    original = scores(index.query(spec.collection, queries, 1, SearchParams(ef=300, quantized=False)))
    assert np.abs(rough - exact).max() > 1e-4
    np.testing.assert_allclose(rescored, exact, atol=1e-6)
    np.testing.assert_allclose(original, exact, atol=1e-6)
    index.close()


def scores(answers: list[list[Hit]]) -> Vectors:
    return np.array([hits[0].score for hits in answers], dtype=np.float32)


def test_disk_bytes(tmp_path: Path, make_spec: MakeSpec) -> None:
    spec = make_spec(dim=2048)
    index = EdgeIndex(tmp_path)
    index.create(spec, Tuning("int8", on_disk=True))
    empty = index.disk_bytes(spec.collection)
    index.upsert(spec.collection, Points([image(number) for number in range(1500)], unit(1500, 2048)))
    index.optimize(spec.collection)
    assert index.disk_bytes(spec.collection) - empty > 1500 * (4 + 1) * 2048
    settings = index.info(spec.collection).settings
    assert (settings["on_disk"], settings["m"], settings["full_scan_threshold"]) == (True, 16, 10_000)
    segments = [json.loads(file.read_text()) for file in (tmp_path / spec.collection).glob("segments/*/segment.json")]
    assert "Mmap" in {segment["config"]["vector_data"][""]["storage_type"] for segment in segments}
    index.close()


@pytest.mark.parametrize("tuning", [Tuning(shards=2), Tuning(replicas=2)])
def test_an_embedded_index_is_one_shard(tmp_path: Path, make_spec: MakeSpec, tuning: Tuning) -> None:
    index = EdgeIndex(tmp_path / "index")
    with pytest.raises(IndexFailure, match=r"single shard: shards and replicas need a Qdrant server \(--url\)"):
        index.create(make_spec(), tuning)
    assert not index.path.exists()


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"dataset": 3}', "not json"])
def test_a_broken_specification_is_explained(filled: tuple[Path, CollectionSpec], content: str) -> None:
    path, spec = filled
    (path / f"{spec.collection}.json").write_text(content)
    with pytest.raises(SpecMismatch, match="has no valid specification"):
        EdgeIndex(path).count(spec.collection)


def test_a_folder_that_cannot_be_created(tmp_path: Path, make_spec: MakeSpec) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexFailure, match="cannot create the index folder"):
        EdgeIndex(tmp_path / "file" / "index").create(make_spec())


def test_the_specification_is_readable_json(filled: tuple[Path, CollectionSpec]) -> None:
    path, spec = filled
    stored = json.loads((path / f"{spec.collection}.json").read_text())
    assert stored["model"] == "some-clip"
    assert stored["splits"]["test"]["images"] == 3


def test_a_shard_without_its_specification_is_refused(tmp_path: Path, make_spec: MakeSpec) -> None:
    """Its points may come from another model, and must not become part of a new collection."""
    index = EdgeIndex(tmp_path / "index")
    spec = make_spec()
    index.create(spec)
    index.upsert(spec.collection, Points([image(1)], unit(1)))
    index.close()
    (tmp_path / "index" / f"{spec.collection}.json").unlink()
    again = EdgeIndex(tmp_path / "index")
    with pytest.raises(IndexFailure, match="is missing: restore it, or delete the folder"):
        again.create(make_spec(weights="c" * 64))
    again.close()


def test_a_killed_drop_can_be_repeated(tmp_path: Path, make_spec: MakeSpec) -> None:
    index = EdgeIndex(tmp_path / "index")
    spec = make_spec()
    index.create(spec)
    index.upsert(spec.collection, Points([image(1)], unit(1)))
    index.close()
    folder = tmp_path / "index" / spec.collection
    folder.rename(folder.with_name(f".{spec.collection}.dropped"))  # the state after a killed drop
    again = EdgeIndex(tmp_path / "index")
    assert again.collections() == []
    again.create(make_spec(weights="c" * 64))
    assert again.count(spec.collection) == 0
    again.drop(spec.collection)
    assert [
        file.name
        for file in (tmp_path / "index").iterdir()
        if spec.collection in file.name and "owner" not in file.name
    ] == []
    again.close()


def test_a_read_only_index_is_an_error_that_says_what_to_do(
    filled: tuple[Path, CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, spec = filled
    monkeypatch.setattr("search.index.edge.space.os.access", lambda *_: False)
    with pytest.raises(IndexFailure, match=r"is read-only.*--path"):
        EdgeIndex(path).count(spec.collection)
    with pytest.raises(IndexFailure, match=r"is read-only.*--path"):
        EdgeIndex(path).create(spec)


def test_space_in_memory_is_checked_before_the_engine_needs_it(
    filled: tuple[Path, CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, spec = filled
    usage = shutil.disk_usage(path)
    monkeypatch.setattr("search.index.edge.space._is_in_memory", lambda _: True)
    monkeypatch.setattr("search.index.edge.space.shutil.disk_usage", lambda _: usage._replace(free=10 * 2**20))
    with pytest.raises(IndexFailure, match="free some space"):
        EdgeIndex(path).count(spec.collection)
    monkeypatch.setattr("search.index.edge.space._is_in_memory", lambda _: False)  # reading a hole takes no space
    assert EdgeIndex(path).count(spec.collection) == 10


def test_a_file_system_in_memory_is_recognised(tmp_path: Path) -> None:
    assert space._is_in_memory(Path("/dev/shm")) or not Path("/dev/shm").exists()
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 20)
    assert space.bytes_to_open(tmp_path) == (1 << 20 if space._is_in_memory(tmp_path) else 0)


def test_a_child_killed_by_a_signal_is_one_line(
    tmp_path: Path, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    index = EdgeIndex(tmp_path / "index")
    index.create(spec)
    fill(index, spec, 10)
    monkeypatch.setattr("search.index.edge.index.BUILT_IN_PROCESS", 0)
    ended = subprocess.CompletedProcess[str]([], -signal.SIGBUS, "", "")
    monkeypatch.setattr("search.index.edge.building.subprocess.run", lambda *_, **__: ended)
    with pytest.raises(IndexFailure, match=r"SIGBUS.*run the same command again"):
        index.optimize(spec.collection)


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexFailure, match="not valid UTF-8"):
        EdgeIndex(tmp_path / "index-\udce9")
