"""Replacing files: old content or new, never a mixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.files import replace_file, replacing, target_of


def test_the_old_content_stays_until_the_new_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    replace_file(file, "old")
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    with pytest.raises(UnicodeEncodeError):
        replace_file(file, "half \udc80")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/file")
    for content in ("first", "second"):
        replace_file(target_of(tmp_path / "link"), content)
        assert ((tmp_path / "link").is_symlink(), (tmp_path / "real/file").read_text()) == (True, content)
    for other in (tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            target_of(other)


def test_what_a_killed_run_left_is_not_followed_or_kept(tmp_path: Path) -> None:
    file, other = tmp_path / "a.json", tmp_path / "other"
    other.write_text("untouched")
    (tmp_path / "a.json.partial").symlink_to(other)
    with replacing(file, sync=False, mode=0o600) as partial:
        assert partial.stat().st_mode & 0o777 == 0o600  # before anything is written
        partial.write_text("secret")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("secret", 0o600)
    assert other.read_text() == "untouched"
