"""The archives: the room that they need, and unpacking them whatever they hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from web_server import zipped

from ingest.download.coco import OFFICIAL
from ingest.download.zips import space_needed, unpack
from search.errors import DownloadError


def test_the_worst_moment_is_what_is_said(tmp_path: Path) -> None:
    val, train = OFFICIAL.archives["val2014"], OFFICIAL.archives["train2014"]
    assert space_needed([train, val], tmp_path, keep=False) == max(
        train.size + train.space, train.space + val.size + val.space
    )
    assert space_needed([train, val], tmp_path, keep=True) == train.size + train.space + val.size + val.space
    assert space_needed([train, val], tmp_path, keep=False) < space_needed([val, train], tmp_path, keep=False)
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014/a.jpg").write_bytes(b"x" * 1000)
    (tmp_path / "val2014.zip.part").write_bytes(b"x" * 500)
    assert space_needed([val], tmp_path, keep=False) == val.size + val.space - 1500


def test_unpacking_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(("whole", b"12345"), ("half", b"12345"), ("none", b"12345")))
    (tmp_path / "whole").write_bytes(b"abcde")
    (tmp_path / "half").write_bytes(b"12")
    unpack(tmp_path / "a.zip", lambda name: tmp_path / name, space=3 * 4096)
    assert [(tmp_path / name).read_text() for name in ("whole", "half", "none")] == ["abcde", "12345", "12345"]


@pytest.mark.parametrize("damage", ["contents", "cut", "text"])
def test_a_damaged_archive_says_what_to_do(tmp_path: Path, damage: str) -> None:
    content = zipped(("a", b"x" * 1000))
    broken = {"contents": content.replace(b"xxx", b"xyx", 1), "cut": content[:-30], "text": b"<html>"}[damage]
    (tmp_path / "a.zip").write_bytes(broken)
    with pytest.raises(DownloadError, match=r"a\.zip is damaged .*: delete it and run the command again"):
        unpack(tmp_path / "a.zip", lambda name: tmp_path / name, space=4096)
    assert not (tmp_path / "a").exists()


def test_an_archive_larger_than_planned_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(("a", b"x" * 5000)))
    with pytest.raises(DownloadError, match="unpacks to 8,192 bytes, more than the expected 8,000"):
        unpack(tmp_path / "a.zip", lambda name: tmp_path / name, space=8000)
    with pytest.raises(DownloadError, match="lacks the expected files"):
        unpack(tmp_path / "a.zip", lambda _: None, space=8000)
