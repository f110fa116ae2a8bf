"""The download as people use it, from a local server in the layout of the official ones."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Call, one_line_error, write_photo_set
from web_server import Answer, Server, zipped

import ingest.download.coco
from ingest.download.coco import Sources, download_coco
from ingest.download.http import Retry
from ingest.download.zips import Archive
from search.errors import DownloadError, OutOfSpace

HURRIED = Retry(attempts=2, first_wait=0.001)
ROOT = Path(__file__).resolve().parents[1]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server.running() as running:
        yield running


def archive(server: Server, path: str, contents: float) -> Archive:
    body = server.files[path]
    return Archive(server.url + path, len(body), hashlib.md5(body).hexdigest(), contents)


@pytest.fixture
def site(server: Server, photo_set: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the photo set in the layout of the official ones, and the commands pointed to it."""
    photos = sorted((photo_set / "images/val2014").iterdir())
    described = (photo_set / "dataset_coco.json").read_bytes()
    server.files = {f"/val2014/{photo.name}": photo.read_bytes() for photo in photos}
    server.files["/zips/val2014.zip"] = zipped(
        ("val2014/", b""), *((f"val2014/{photo.name}", photo.read_bytes()) for photo in photos)
    )
    server.files["/caption_datasets.zip"] = zipped(("dataset_flickr8k.json", b"{}"), ("dataset_coco.json", described))
    monkeypatch.setattr(ingest.download.coco, "OFFICIAL", sources(server))
    return server


def sources(server: Server) -> Sources:
    return Sources(
        archive(server, "/caption_datasets.zip", 4.5),
        {"val2014": archive(server, "/zips/val2014.zip", 3)},  # in small files, half a block is much
        server.url,
    )


def same_photos(photo_set: Path, out: Path) -> int:
    """How many photos are there; each has the right bytes, and nothing unfinished lies about."""
    assert not list(out.rglob("*.part*"))
    for photo in (found := list((out / "val2014").iterdir())):
        assert photo.read_bytes() == (photo_set / "images/val2014" / photo.name).read_bytes()
    return len(found)


# --- the command ------------------------------------------------------------------------------------------------------


def test_everything_comes_as_archives_and_only_once(call: Call, site: Server, photo_set: Path) -> None:
    code, out, err = call("ingest", "download")
    assert code == 0, err
    assert same_photos(photo_set, Path("coco")) == 12
    assert Path("coco/dataset_coco.json").read_bytes() == (photo_set / "dataset_coco.json").read_bytes()
    assert {file.name for file in Path("coco").iterdir()} == {"dataset_coco.json", "val2014"}
    assert "12 of 12 photos are in coco, 12 of them new" in out
    assert (
        "next: python -m ingest run --annotations coco/dataset_coco.json --images coco --split test" in out.splitlines()
    )
    assert re.search(r"photos: 1 to download, \d+ kB; needs at most \d+ kB on disk, .* free", err)

    before = len(site.requests)
    code, out, err = call("ingest", "download")
    assert code == 0
    assert "0 of them new" in out
    assert "nothing to download" in err
    assert len(site.requests) == before == 2


def test_one_split_comes_photo_by_photo(call: Call, site: Server, photo_set: Path, tmp_path: Path) -> None:
    command = ["download", "--out", tmp_path / "a b", "--split", "test", "--jobs", 3]
    code, out, err = call("ingest", *command)
    assert code == 0, err
    assert same_photos(photo_set, tmp_path / "a b") == 8
    assert f"--images '{tmp_path}/a b' --split test" in out
    assert sorted(path for _, path, _ in site.requests) == sorted(
        ["/caption_datasets.zip", *(f"/val2014/COCO_val2014_{number:012d}.jpg" for number in range(100, 108))]
    )
    before = len(site.requests)
    assert call("ingest", *command)[0] == 0
    assert len(site.requests) == before
    assert call("ingest", *command, "--split", "val")[0] == 0
    assert len(site.requests) == before + 4


def test_annotations_of_ones_own_and_archives_to_keep(call: Call, site: Server, photo_set: Path) -> None:
    own = photo_set / "dataset_coco.json"
    code, out, err = call("ingest", "download", "--annotations", own, "--keep-archives")
    assert code == 0, err
    assert f"--annotations {own} --images coco" in out
    assert {file.name for file in Path("coco").iterdir()} == {"val2014", "val2014.zip"}
    next(Path("coco/val2014").iterdir()).unlink()
    before = len(site.requests)
    assert call("ingest", "download", "--annotations", own)[0] == 0
    assert len(site.requests) == before  # unpacked again, not fetched again
    assert same_photos(photo_set, Path("coco")) == 12


def test_photos_that_do_not_come_are_listed(call: Call, site: Server) -> None:
    lost, page = "/val2014/COCO_val2014_000000000101.jpg", "/val2014/COCO_val2014_000000000102.jpg"
    del site.files[lost]
    site.files[page] = b"<html>Please log in to the network</html>"
    code, out, err = call("ingest", "download", "--split", "test")
    assert code == 3, err
    assert "6 of 8 photos are in coco" in out
    failures = sorted(map(json.loads, Path("failures.jsonl").read_text().splitlines()), key=lambda line: line["file"])
    assert [failure["file"] for failure in failures] == [lost[1:], page[1:]]
    assert failures[0] == {
        "file": lost[1:],
        "url": site.url + lost,
        "stage": "download",
        "reason": "HTTP 404 Not Found",
    }
    assert "starts with b'<html>" in failures[1]["reason"]
    assert len(list(Path("coco/val2014").iterdir())) == 6
    assert len(site.asked(lost)) == 1  # nothing was tried again


def test_an_archive_that_is_not_there_is_one_line(call: Call, site: Server) -> None:
    del site.files["/zips/val2014.zip"]
    assert one_line_error(call("ingest", "download")).endswith("/zips/val2014.zip: HTTP 404 Not Found")


@pytest.mark.parametrize("options", [[], ["--split", "test"]])
def test_a_full_disk_is_told_before_anything_is_fetched(
    call: Call, site: Server, photo_set: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 1000, 1000))
    given = ["--annotations", str(photo_set / "dataset_coco.json")] if options else []
    error = one_line_error(call("ingest", "download", *options, *given))
    assert re.search(r"not enough space on the disk of coco: [\d.]+ [kM]B needed, 1 kB free", error)
    assert site.requests == []


def test_wrong_known_values_do_not_make_it_impossible(
    call: Call, site: Server, photo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = sources(site)
    for change in ({"md5": "0" * 32}, {"size": 7}):
        wrong = replace(good.archives["val2014"], **change)
        monkeypatch.setattr(ingest.download.coco, "OFFICIAL", replace(good, archives={"val2014": wrong}))
        error = one_line_error(call("ingest", "download"))
        assert "val2014.zip" in error
        assert "--no-verify" in error
        assert not Path("coco/val2014.zip").exists()
    site.requests.clear()
    code, _, err = call("ingest", "download", "--no-verify")
    assert code == 0, err
    assert [method for method, _, _ in site.requests] == ["HEAD"]  # the bytes with the wrong MD5 were kept
    assert same_photos(photo_set, Path("coco")) == 12


def test_what_cannot_be_fetched_or_written_is_one_line(call: Call, site: Server, tmp_path: Path) -> None:
    flickr = write_photo_set(tmp_path / "flickr", 3, "flickr8k") / "dataset_coco.json"
    assert "no official address" in one_line_error(call("ingest", "download", "--annotations", flickr))
    assert "no split 'tset'" in one_line_error(call("ingest", "download", "--split", "tset"))
    Path("coco/val2014").write_text("in the way")
    assert "cannot write coco/val2014" in one_line_error(call("ingest", "download", "--split", "test"))
    assert "cannot write coco/val2014" in one_line_error(call("ingest", "download"))
    assert site.requests


def test_a_disk_that_fills_up_is_one_line(call: Call, site: Server, photo_set: Path) -> None:
    folder = Path("coco/val2014")
    folder.mkdir(parents=True)
    full = folder / "COCO_val2014_000000000107.jpg.part"
    full.symlink_to("/dev/full")
    command = ["download", "--split", "test", "--jobs", 1, "--annotations", photo_set / "dataset_coco.json"]
    assert "No space left on device" in one_line_error(call("ingest", *command))
    assert len(site.asked("/val2014/COCO_val2014_000000000107.jpg")) == 1
    full.unlink()
    assert call("ingest", *command)[0] == 0


def test_an_archive_cannot_write_elsewhere(
    call: Call, site: Server, photo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = ["../evil.jpg", f"{tmp_path}/evil.jpg", "val2014/../../evil.jpg", "val2014\\..\\evil.jpg", "evil/evil.jpg"]
    evil += ["val2014/evil.sh", "val2014/deep/evil.jpg", "evil.jpg"]
    photos = [(path[1:], body) for path, body in site.files.items() if path.startswith("/val2014/")]
    described = (photo_set / "dataset_coco.json").read_bytes()
    site.files["/zips/val2014.zip"] = zipped(*((name, b"evil") for name in evil), *photos)
    site.files["/caption_datasets.zip"] = zipped(("../../dataset_coco.json", described), *((n, b"") for n in evil))
    monkeypatch.setattr(ingest.download.coco, "OFFICIAL", sources(site))
    code, _, err = call("ingest", "download", "--out", tmp_path / "in/coco")
    assert code == 0, err
    assert same_photos(photo_set, tmp_path / "in/coco") == 12
    assert not list(tmp_path.rglob("*evil*"))
    assert {file.name for file in (tmp_path / "in").iterdir()} == {"coco"}


def test_a_server_that_is_away_is_not_asked_for_every_photo(
    site: Server, tmp_path: Path, photo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.download.coco, "MAX_FAILURES_IN_A_ROW", 3)
    site.always = {path: Answer(status=503) for path in site.files if path.startswith("/val2014/")}
    with pytest.raises(DownloadError, match="3 photos in a row could not be downloaded: HTTP 503"):
        download_coco(
            tmp_path / "coco",
            splits=["all"],
            annotations=photo_set / "dataset_coco.json",
            jobs=1,
            sources=sources(site),
            retry=HURRIED,
        )
    assert 6 <= len(site.requests) <= 10


def test_nothing_is_fetched_beyond_what_was_said(
    site: Server, tmp_path: Path, photo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.download.coco, "PHOTO_SPACE", 4096)
    monkeypatch.setattr(ingest.download.coco, "PHOTOS_MARGIN", 0)
    own = photo_set / "dataset_coco.json"
    with pytest.raises(OutOfSpace):
        download_coco(tmp_path / "coco", splits=["test"], annotations=own, sources=sources(site), retry=HURRIED)
    assert sum(file.stat().st_size for file in (tmp_path / "coco").rglob("*.jpg")) <= 8 * 4096


COMMAND = """
import sys
import ingest.download.coco
from ingest.download.zips import Archive
from ingest.download.coco import Sources
ingest.download.coco.OFFICIAL = eval(sys.argv.pop(1))
from ingest.__main__ import main
main()
"""


@pytest.fixture
def start(site: Server) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a process of its own, pointed to the local server."""
    started: list[subprocess.Popen[str]] = []

    def run(*options: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", COMMAND, repr(sources(site)), "download", *options]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield run
    for process in started:
        with process:
            process.kill()


def wait_until(process: subprocess.Popen[str], condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_in_the_middle_of_an_archive(
    call: Call,
    site: Server,
    start: Callable[..., subprocess.Popen[str]],
    photo_set: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    padding = ("val2014/padding.jpg", random.Random(0).randbytes(2_000_000))
    photos = [(path[1:], body) for path, body in site.files.items() if path.startswith("/val2014/")]
    site.files["/zips/val2014.zip"] = zipped(padding, *photos)
    monkeypatch.setattr(ingest.download.coco, "OFFICIAL", sources(site))
    site.script["/zips/val2014.zip"] = [Answer(pace=0.02)]
    process = start("--keep-archives")
    part = Path("coco/val2014.zip.part")
    wait_until(process, lambda: part.exists() and part.stat().st_size > 300_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("coco/val2014.zip").exists()
    assert not Path("coco/val2014").exists()

    have = part.stat().st_size
    assert call("ingest", "download", "--keep-archives")[0] == 0
    assert Path("coco/val2014.zip").read_bytes() == site.files["/zips/val2014.zip"]
    assert [headers.get("Range") for headers in site.asked("/zips/val2014.zip")] == [None, f"bytes={have}-"]
    Path("coco/val2014/padding.jpg").unlink()
    assert same_photos(photo_set, Path("coco")) == 12


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_does_not_wait_for_the_network(
    call: Call, site: Server, start: Callable[..., subprocess.Popen[str]], photo_set: Path
) -> None:
    photos = [path for path in site.files if path.startswith("/val2014/")]
    site.always = {path: Answer(sent=500, hang=True) for path in photos}
    process = start("--split", "test", "--jobs", "4")
    wait_until(process, lambda: len(list(Path("coco").glob("val2014/*.part"))) == 4)
    time.sleep(0.2)  # let the bytes arrive
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert out == ""
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    assert {part.stat().st_size for part in Path("coco").glob("val2014/*.part")} == {500}

    site.always = {}
    site.requests.clear()
    assert call("ingest", "download", "--split", "test")[0] == 0
    assert same_photos(photo_set, Path("coco")) == 8
    assert sorted(headers.get("Range", "") for _, _, headers in site.requests) == [""] * 4 + ["bytes=500-"] * 4
