"""Backups: what is restored is what was there, and nothing is touched by an archive that is not whole."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backed_up import MakeSpec, two_data_sets
from conftest import Call, ingest_options, one_line_error, plain_spec
from points import image, unit
from test_copy import fill, stored

from ingest.transfer.archive import read_manifest
from ingest.transfer.backup import back_up
from search.errors import IndexBusy
from search.index import Points
from search.index.edge.index import EdgeIndex
from search.index.edge.locks import flush_and_lock
from search.settings import Settings


@pytest.fixture
def filled(tmp_path: Path, make_spec: MakeSpec) -> EdgeIndex:
    return two_data_sets(tmp_path, make_spec)


@pytest.fixture
def small(tmp_path: Path, make_spec: MakeSpec) -> EdgeIndex:
    """A closed index of one collection."""
    index = EdgeIndex(tmp_path / "small")
    fill(index, make_spec(), 40)
    index.close()
    return index


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[EdgeIndex, Path]:
    """A closed index of one collection, and its backup: for what must change neither."""
    folder = tmp_path_factory.mktemp("saved")
    index = EdgeIndex(folder / "index")
    fill(index, plain_spec(), 40)
    index.close()
    back_up(Settings(index_path=index.path), folder / "all.tgz", datasets=())
    return index, folder / "all.tgz"


def archive(manifest: dict[str, object], *members: tarfile.TarInfo) -> Path:
    """An archive by hand: its manifest, then empty members."""
    file = Path("by-hand.tgz")
    text = json.dumps({"format": 1, "kind": "folders", "version": "0", "engine": "e", "made": "", **manifest}).encode()
    with tarfile.open(file, "w:gz") as tar:
        first = tarfile.TarInfo("manifest.json")
        first.size = len(text)
        tar.addfile(first, io.BytesIO(text))
        for member in members:
            tar.addfile(member)
    return file


def contents(path: Path) -> dict[str, object]:
    index = EdgeIndex(path)
    found = {
        name: {number: (record, vector.tobytes()) for number, (record, vector) in stored(index, name).items()}
        for name in index.collections()
    }
    index.close()
    return dict(found)


def repacked(file: Path, change: Callable[[str, bytes], Iterator[tuple[tarfile.TarInfo, bytes]]]) -> Path:
    """The archive with some members changed, and its list of checksums made right again."""
    target, sums = file.with_name("changed.tar.gz"), ""
    with tarfile.open(file) as source, tarfile.open(target, "w:gz", compresslevel=1) as out:
        for member in source:
            stream = source.extractfile(member)
            assert stream
            content = stream.read()
            if member.name == "SHA256SUMS":
                content = sums.encode()
            for info, data in change(member.name, content):
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
                sums += f"{hashlib.sha256(data).hexdigest()}  {info.name}\n"
    return target


def test_from_photos_to_photos(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    assert call("ingest", *ingest_options(photo_set, clip_folder, ["--path", "index"]))[0] == 0
    asked = ["search", "text", "a photo of noise", "--to", "both", "--json"]
    answer = call(*asked)[1]
    code, out, _ = call("ingest", "backup", "coco.tar.gz")
    assert code == 0
    assert "coco_images: 12 points saved in coco.tar.gz (" in out
    shutil.rmtree("index")
    code, out, _ = call("ingest", "restore", "coco.tar.gz", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["points"], found["place"]) == ({"coco_captions": 60, "coco_images": 12}, "index")
    assert call(*asked)[1] == answer
    again = ingest_options(photo_set, clip_folder, ["--path", "index"])
    assert "12 points (0 embedded now, 12 were there already)" in call("ingest", *again)[1]
    hidden = [file.name for file in (tmp_path / "index").glob(".*") if file.suffix not in (".owner", ".built")]
    assert hidden == []


def test_what_is_in_the_archive(call: Call, small: EdgeIndex, dataset: str, tmp_path: Path) -> None:
    leftover = small.path / f"{dataset}_images/temp_segments/half"
    leftover.mkdir(parents=True)
    (leftover / "file").write_text("left by a killed optimisation")
    assert call("ingest", "backup", "all.tgz", "--path", small.path)[0] == 0
    with tarfile.open("all.tgz") as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "plain", filter="data")
    assert (names[0], names[-1]) == ("manifest.json", "SHA256SUMS")
    assert not [name for name in names if "owner" in name or "partial" in name or "temp_segments" in name]
    assert f"{dataset}_images.json" in names
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "plain", check=True)
    manifest = json.loads((tmp_path / "plain/manifest.json").read_text())
    assert manifest["points"] == {f"{dataset}_images": 40}
    assert manifest["engine"] == small.engine
    assert Path("all.tgz").stat().st_size < manifest["bytes"] / 50  # holes
    assert not Path("all.tgz.partial").exists()


def test_some_data_sets(call: Call, filled: EdgeIndex, dataset: str) -> None:
    where = ["--path", filled.path]
    everything = contents(filled.path)
    assert call("ingest", "backup", "one.tgz", "--dataset", "other", *where)[0] == 0
    assert list(read_manifest(Path("one.tgz")).points) == ["other_images"]
    assert call("ingest", "backup", "all.tgz", *where)[0] == 0
    assert call("ingest", "restore", "all.tgz", "--dataset", dataset, "--path", "new")[0] == 0
    assert contents(Path("new")) == {name: each for name, each in everything.items() if name.startswith(dataset)}
    assert call("ingest", "restore", "one.tgz", "--path", "new")[0] == 0
    assert contents(Path("new")) == everything
    space = sum(file.stat().st_blocks * 512 for file in Path("new").rglob("*"))
    assert space <= 1.5 * sum(file.stat().st_blocks * 512 for file in filled.path.rglob("*"))  # holes again
    error = one_line_error(call("ingest", "restore", "all.tgz", "--dataset", "absent", "--path", "new"))
    assert "all.tgz holds no data set absent" in error
    assert "absent" in one_line_error(call("ingest", "backup", "x.tgz", "--dataset", "absent", *where))
    assert "no collections in nothing" in one_line_error(call("ingest", "backup", "x.tgz", "--path", "nothing"))
    assert not Path("nothing").exists()
    assert not list(Path().glob("x.tgz*"))


def test_nothing_is_overwritten_unasked(call: Call, small: EdgeIndex, make_spec: MakeSpec) -> None:
    before = contents(small.path)
    where = ["--path", small.path]
    assert call("ingest", "backup", "all.tgz", *where)[0] == 0
    assert "all.tgz exists" in one_line_error(call("ingest", "backup", "all.tgz", *where))
    assert call("ingest", "backup", "all.tgz", "--force", *where)[0] == 0

    index = EdgeIndex(small.path)
    index.upsert(make_spec().collection, Points([image(7, captions=("changed",)), image(99)], unit(2)))
    index.close()
    changed = contents(small.path)
    assert changed != before
    assert "holds 41 points: --force" in one_line_error(call("ingest", "restore", "all.tgz", *where))
    assert contents(small.path) == changed
    assert call("ingest", "restore", "all.tgz", "--force", *where)[0] == 0
    assert contents(small.path) == before


def test_a_damaged_index_is_what_backups_are_for(call: Call, small: EdgeIndex, dataset: str) -> None:
    before, where = contents(small.path), ["--path", small.path]
    assert call("ingest", "backup", "all.tgz", *where)[0] == 0
    for file in (small.path / f"{dataset}_images").rglob("*.*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    assert call("ingest", "restore", "all.tgz", "--force", *where)[0] == 0
    assert contents(small.path) == before


def test_while_another_process_has_it_open(call: Call, saved: tuple[EdgeIndex, Path]) -> None:
    index, file = saved
    holder = (
        "import sys; from pathlib import Path; from search.index.edge.index import EdgeIndex; "
        "index = EdgeIndex(Path(sys.argv[1])); print(index.count('coco_images'), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, index.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "40\n"
        for command in (["backup", "new.tgz"], ["restore", file, "--force"]):
            assert "open in another process" in one_line_error(call("ingest", *command, "--path", index.path))
        process.communicate("\n")
    assert not list(Path().glob("new.tgz*"))
    assert call("ingest", "backup", "new.tgz", "--path", index.path)[0] == 0


def test_nobody_opens_a_shard_while_it_is_read(small: EdgeIndex, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr("search.index.edge.index.BUSY_SECONDS", 0.05)
    name = f"{dataset}_images"
    with flush_and_lock(small.path, [name]) as infos:
        assert [info.points for info in infos] == [40]
        with pytest.raises(IndexBusy):
            EdgeIndex(small.path).count(name)
    after = EdgeIndex(small.path)
    assert after.count(name) == 40
    after.close()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def flip(file: Path) -> None:
    with tarfile.open(file) as tar, tarfile.open(f"{file}.new", "w:gz", compresslevel=1) as out:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream
            content = stream.read()
            if member.name.endswith("chunk_0.mmap"):
                content = bytes([content[0] ^ 1]) + content[1:]
            out.addfile(member, io.BytesIO(content))
    Path(f"{file}.new").replace(file)


def nonsense(file: Path) -> None:
    file.write_text("no archive")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def another_tar(file: Path) -> None:
    Path("something").write_text("else")
    with tarfile.open(file, "w:gz") as tar:
        tar.add("something")


@pytest.mark.parametrize("damage", [cut, flip, nonsense, empty, another_tar])
def test_damaged_archives_change_nothing(
    call: Call, saved: tuple[EdgeIndex, Path], damage: Callable[[Path], None], tmp_path: Path
) -> None:
    index, whole = saved
    before = contents(index.path)
    file = tmp_path / "all.tgz"
    shutil.copy(whole, file)
    damage(file)
    for options in (["--path", index.path, "--force"], ["--path", "new"]):
        error = one_line_error(call("ingest", "restore", file, *options))
        assert "all.tgz" in error
        assert "damaged" in error or "not a backup" in error
    assert contents(index.path) == before
    assert not Path("new").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-the-archive", "a/../../outside", ".", "t_images/link"])
def test_members_that_lead_elsewhere_are_refused(call: Call, name: str) -> None:
    member = tarfile.TarInfo(name)
    if name.endswith("link"):
        member.type, member.linkname = tarfile.SYMTYPE, "../.."
    file = archive({"bytes": 0, "room": 0, "points": {"t_images": 1}}, member)
    error = one_line_error(call("ingest", "restore", file, "--path", "deep/new"))
    assert "which no backup does: not unpacked" in error
    assert not list(Path().rglob("outside*"))
    assert not Path("/tmp/outside-of-the-archive").exists()
    assert not Path("deep/new").exists()


@pytest.mark.parametrize("name", ["../up_images", "/tmp_images", "a/b_images", "plain"])
def test_names_of_collections_lead_nowhere(call: Call, name: str) -> None:
    file = archive({"bytes": 0, "room": 0, "points": {name: 1}})
    error = one_line_error(call("ingest", "restore", file, "--path", "new"))
    assert "its manifest.json is not valid (points)" in error


def test_no_room(call: Call) -> None:
    file = archive({"bytes": 0, "room": 2**60, "points": {"t_images": 1}})
    assert "has less free space" in one_line_error(call("ingest", "restore", file, "--path", "new"))
    assert not Path("new").exists()


def test_a_wrong_count_is_found_before_anything_is_replaced(
    call: Call, saved: tuple[EdgeIndex, Path], tmp_path: Path
) -> None:
    index, whole = saved
    before = contents(index.path)

    def recounted(member: str, content: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        if member == "manifest.json":
            content = content.replace(b": 40", b": 41")
        yield tarfile.TarInfo(member), content

    copy = tmp_path / "all.tgz"
    shutil.copy(whole, copy)
    file = repacked(copy, recounted)
    error = one_line_error(call("ingest", "restore", file, "--force", "--path", index.path))
    assert "has 40 points, but 41 were backed up" in error
    assert contents(index.path) == before


def test_a_killed_restore_is_done_again(call: Call, small: EdgeIndex, dataset: str) -> None:
    """Killed while it unpacks, and between the renames, where the old collection is set aside."""
    before, where = contents(small.path), ["--path", small.path]
    assert call("ingest", "backup", "all.tgz", *where)[0] == 0
    killed = """
import os, pathlib, signal, sys
import ingest.transfer.backup
from ingest.__main__ import main
at = sys.argv.pop(1)
def kill(*_): os.kill(os.getpid(), signal.SIGKILL)
if at == "unpacking":
    ingest.transfer.backup._check_points = kill
else:
    pathlib.Path.replace = kill
main()
"""
    for moment in ("unpacking", "renaming"):
        command = [sys.executable, "-c", killed, moment, "restore", "all.tgz", "--force", "--path", str(small.path)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == -9
        if moment == "unpacking":
            assert contents(small.path) == before
        else:
            assert contents(small.path) == {}
            assert (small.path / f".{dataset}_images.replaced").is_dir()
        assert call("ingest", "restore", "all.tgz", "--force", *where)[0] == 0
        assert contents(small.path) == before
    hidden = [file.name for file in small.path.glob(".*") if file.suffix not in (".owner", ".built")]
    assert hidden == []
