from __future__ import annotations

import os
from pathlib import Path

import pytest

from search.photos import PhotoFolder, files, read_photo, unchanged


def test_unchanged_photos_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (inside / "album", outside):
        folder.mkdir(parents=True)
        (folder / "photo.jpg").write_bytes(b"content")
    (inside / "linked").symlink_to(outside)
    (inside / "link.jpg").symlink_to(outside / "photo.jpg")
    names = ["album/photo.jpg", "linked/photo.jpg", "link.jpg"]
    marks = [read_photo(inside, name, follow_links=True)[1] for name in names]

    def current(folder: PhotoFolder, *, same_place: bool = True) -> list[bool]:
        pairs = zip(names, marks, strict=True)
        return [folder.current_mark(name, mark, same_place=same_place) is not None for name, mark in pairs]

    assert current(PhotoFolder(inside)) == [True, False, False]  # as opening them does, links may not lead out
    assert current(PhotoFolder(inside, follow_links=True)) == [True] * 3
    assert PhotoFolder(inside).current_mark("../elsewhere/photo.jpg", marks[0], same_place=True) is None
    with monkeypatch.context() as patch:
        patch.setattr(files, "read_photo", None)
        patch.setattr(unchanged, "current_mark", None)
        assert PhotoFolder(inside).current_mark(names[0], marks[0], same_place=True) == marks[0]

    photo = inside / "album/photo.jpg"
    os.utime(photo, ns=(1, 1))  # read, and found to be the same
    mark = PhotoFolder(inside).current_mark(names[0], marks[0], same_place=True)
    assert mark is not None
    assert mark.modified == 1
    photo.write_bytes(b"CONTENT")
    os.utime(photo, ns=(1, 1))
    assert PhotoFolder(inside).current_mark(names[0], mark, same_place=True) == mark  # which only reading could tell
    assert PhotoFolder(inside).current_mark(names[0], mark, same_place=False) is None
    photo.unlink()
    assert PhotoFolder(inside).current_mark(names[0], mark, same_place=True) is None
