"""Tables of photos and captions: CSV, TSV and JSON lines."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.annotations import Annotations, read_annotations
from search.errors import AnnotationError


def read(folder: Path, content: str | bytes, name: str = "table") -> Annotations:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_annotations(file, folder)


def pairs(read: Annotations) -> list[tuple[str, tuple[str, ...]]]:
    return [(image.file, image.captions) for image in read.images]


def reasons(read: Annotations) -> list[str]:
    return [entry.reason for entry in read.unusable]


DOGS = [("a.jpg", ("A dog.", 'A "good" dog, running')), ("b/c.png", ("Two\nlines",))]


@pytest.mark.parametrize(
    "content",
    [
        'file,caption\na.jpg,A dog.\nb/c.png,"Two\nlines"\na.jpg,"A ""good"" dog, running"\n',
        '\ufeffimage_path,Title\r\n./a.jpg,A dog.\r\nb//c.png,"Two\nlines"\r\na.jpg,"A ""good"" dog, running"\r\n',
        'id\tfilepath\ttext\n1\ta.jpg\tA dog.\n2\tb/c.png\t"Two\nlines"\n1\ta.jpg\tA "good" dog, running\n',
        'Comment|comment number|Image Name\nA dog.|0| a.jpg\n"Two\nlines"|0|b/c.png\nA "good" dog, running |1|a.jpg\n',
        "\n".join(
            [
                '{"file_name": "a.jpg", "captions": ["A dog.", "A \\"good\\" dog, running"]}',
                "",
                '{"text": "Two\\nlines", "file_name": "b/c.png", "width": 640}',
            ]
        ),
    ],
    ids=["csv", "csv from a spreadsheet", "tsv", "bars", "json lines"],
)
def test_the_content_tells_the_format(tmp_path: Path, content: str) -> None:
    found = read(tmp_path, content, "My captions.data")
    assert pairs(found) == DOGS
    assert found.unusable == ()
    assert (found.format, found.dataset, found.splits()) == ("table", "My-captions", {"My-captions": 2})
    assert found.sha256 == hashlib.sha256((tmp_path / "My captions.data").read_bytes()).hexdigest()


def test_splits_and_ids_come_from_their_columns(tmp_path: Path) -> None:
    found = read(tmp_path, "image_id,caption_id,file,caption,split\n7,70,a.jpg,A,test\n7,71,a.jpg,B,\n8,80,b.jpg,C,\n")
    assert [(image.id, image.split) for image in found.images] == [(7, "test"), (8, "table")]
    assert [(each.id, each.image_id, each.position) for each in found.captions] == [(70, 7, 0), (71, 7, 1), (80, 8, 0)]


def test_photos_without_captions(tmp_path: Path) -> None:
    assert pairs(read(tmp_path, "path\nb.jpg\na.jpg\nb.jpg\n")) == [("b.jpg", ()), ("a.jpg", ())]
    assert pairs(read(tmp_path, '{"path": "b.jpg", "caption": null}')) == [("b.jpg", ())]


def test_absolute_paths_below_the_photo_folder(tmp_path: Path) -> None:
    found = read(tmp_path, f"file,caption\n{tmp_path}/x/a.jpg,A dog.\n/elsewhere/b.jpg,A cat.\n")
    assert pairs(found) == [("x/a.jpg", ("A dog.",))]
    assert reasons(found) == ["line 3: file: '/elsewhere/b.jpg' leads out of the photo folder"]


def test_ids_do_not_depend_on_other_lines(tmp_path: Path) -> None:
    before = read(tmp_path, "file,caption\na.jpg,A\nb.jpg,B\n")
    after = read(tmp_path, "file,caption\nc.jpg,C\nb.jpg,other words\nb.jpg,more\na.jpg,A\n")
    ids = {image.file: image.id for image in before.images}
    assert {image.file: image.id for image in after.images} == ids | {"c.jpg": after.images[0].id}
    assert {caption.id for caption in before.captions} < {caption.id for caption in after.captions}
    assert ids["a.jpg"] == 8946717530374740  # as in every index that was ever made
    every_id = [image.id for image in after.images] + [caption.id for caption in after.captions]
    assert len(set(every_id)) == 7
    assert max(every_id) < 2**53


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "an open quote": ('b.jpg,"never closed', "not valid CSV: unexpected end of data"),
    "an open quote above another": ('b.jpg,"never closed\nb.jpg,"A cat."', "not valid CSV: ',' expected after '\"'"),
    "text after a quote": ('b.jpg,"A" cat', "not valid CSV: ',' expected after '\"'"),
    "too many cells": (
        "b.jpg,A cat, sleeping",
        "the number of cells is 3, not 2: a text with a delimiter in it needs quotes",
    ),
    "too few cells": ("b.jpg", "the number of cells is 1, not 2"),
    "no file": (",A cat.", "it names no file"),
    "a path that leads out": ("../b.jpg,A cat.", "file: '../b.jpg' leads out of the photo folder"),
    "Latin-1": (b"b.jpg,\xe9", "the text is not valid UTF-8"),
    "NUL": ("b.jpg,\0", "the text contains a NUL character"),
    "a path with a detour": ("sub/../b.jpg,A cat.", "file: 'sub/../b.jpg' has '..': leave it out"),
    "a backslash": ("sub\\b.jpg,A cat.", "file: 'sub\\\\b.jpg' has a backslash: write / between folders"),
    "no caption": ("b.jpg, ", "the caption is empty"),
    "a long line": ("b.jpg," + "x" * 1_500_000, "the line is too long"),
    "a long quote": ('b.jpg,"' + "x" * 150_000 + '"', "not valid CSV: field larger than field limit (131072)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_listed_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    line = content if isinstance(content, bytes) else content.encode()
    found = read(tmp_path, b"file,caption\na.jpg,A dog.\n" + line + b"\nc.jpg,Plain.\nd.jpg,Last.\n")
    assert reasons(found)[0].startswith(f"line 3: {reason}")
    assert len(found.unusable) == 1
    usable = [(file, captions) for file, captions in pairs(found) if file != "b.jpg"]
    assert usable == [("a.jpg", ("A dog.",)), ("c.jpg", ("Plain.",)), ("d.jpg", ("Last.",))]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"file": "b.jpg", "caption": ', "Expecting value"),
        ("[]", "not a JSON object"),
        ('{"caption": "A cat."}', "it names no photo: no field is called file, filepath"),
        ('{"file": "b.jpg", "caption": "\\ud83d"}', "the text is not valid UTF-8"),
        ('{"file": "b.jpg", "caption": 5}', "the caption is not a text"),
        ('{"file": "b.jpg", "caption": ["A", "B"], "caption_id": 7}', "one caption_id for several captions"),
        (
            '{"file": "b.jpg", "split": "te\\nst"}',
            "split: the split 'te\\nst' contains line breaks or control",
        ),
        ('{"file": "b.jpg", "caption": NaN}', "NaN is not valid JSON"),
        ('{"file": "b.jpg", "split": "all"}', "split: 'all' stands for every split"),
        ('{"file": "a.jpg", "split": "test"}', "a.jpg is in split test here, and in val before"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_broken_json_lines(tmp_path: Path, line: str, reason: str, first: bool) -> None:
    good = ['{"file": "a.jpg", "caption": "A dog.", "split": "val"}', '{"file": "c.jpg", "caption": "Last."}']
    if first and (line.startswith("[") or '"a.jpg"' in line):
        pytest.skip("not JSON lines, or not broken")
    found = read(tmp_path, "\n".join([line, *good] if first else [good[0], line, good[1]]))
    assert reasons(found)[0].startswith(f"line {1 if first else 2}: {reason}")
    assert [each for each in pairs(found) if each[0] != "b.jpg"] == [("a.jpg", ("A dog.",)), ("c.jpg", ("Last.",))]


def test_quotes_are_a_part_of_the_text_in_a_table_with_tabs(tmp_path: Path) -> None:
    found = read(tmp_path, 'file\tcaption\na.jpg\t"Hello" she said\nb.jpg\t"open\nc.jpg\t"closed"\n')
    assert pairs(found) == [("a.jpg", ('"Hello" she said',)), ("b.jpg", ('"open',)), ("c.jpg", ("closed",))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "neither JSON nor a table"),
        ("just words\nand more\n", "no column of its first line is called file"),
        ("a.jpg,A dog.\nb.jpg,A cat.\n", "for example: 'a.jpg,A dog.'"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "neither JSON nor a table"),
        (b"PAR1\x15\x00PAR1", "is a Parquet file"),
        ("file,caption\n", "there is none below the names of the columns"),
        ("file,caption\n,x\n", "no usable line: line 2: it names no file"),
        ("file,caption\na.jpg,x\n".encode("utf-16"), "UTF-16"),
        ("id,file\n1,a.jpg\n2,a.jpg\n", "line 3: a.jpg has the id 2 here and 1 before.* call their column caption_id"),
        ("id,file\n1,a.jpg\n1,b.jpg\n", "photos a.jpg and b.jpg have the same id, 1"),
        ("sentid,file,caption\n1,a.jpg,x\n1,b.jpg,y\n", "a caption of a.jpg and one of b.jpg have the same id, 1"),
    ],
)
def test_files_without_use(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as error:
        read(tmp_path, content)
    assert "\n" not in str(error.value)


def test_the_progress_ends_at_the_size_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ingest.annotations.table.SHOWN_FROM", 0)
    read(tmp_path, 'file,caption\n狗.jpg,"沙滩上\n的狗"\nb.jpg,a dog\n')
    assert "100%" in capfd.readouterr().err


def test_colliding_ids_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.annotations.photos.ID_BITS", 4)
    with pytest.raises(AnnotationError, match=r"photos \d+\.jpg and \d+\.jpg have the same id, \d+: .*rename one"):
        read(tmp_path, "file\n" + "".join(f"{number}.jpg\n" for number in range(17)))


def test_quotes_in_a_table_with_tabs_join_no_two_photos(tmp_path: Path) -> None:
    found = read(tmp_path, 'file\tcaption\na.jpg\t"Hello there\nb.jpg\tA man says "\nc.jpg\t"two\nlines"\n')
    assert pairs(found) == [("a.jpg", ('"Hello there',)), ("b.jpg", ('A man says "',)), ("c.jpg", ("two\nlines",))]
    found = read(tmp_path, 'caption\tfile\n"two\nlines"\tc.jpg\nA cat.\td.jpg\n')
    assert pairs(found) == [("c.jpg", ("two\nlines",)), ("d.jpg", ("A cat.",))]


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
_captions = st.dictionaries(
    st.from_regex(r"[\w ,;\"'é.-]{0,9}[a-z]\.jpg", fullmatch=True).filter(lambda name: name == name.strip()),
    st.lists(_texts.map(str.strip).filter(bool), min_size=1, max_size=3),
    min_size=1,
    max_size=5,
)


@given(captions=_captions, delimiter=st.sampled_from(",\t;"), ends=st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None)
def test_what_a_writer_of_csv_or_json_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, captions: dict[str, list[str]], delimiter: str, ends: str
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    rows = [(file, text) for file, texts in captions.items() for text in texts]
    returns = any("\r" in cell for row in rows for cell in row)  # Python 3.11 writes them without the quotes they need
    table = io.StringIO()
    writer = partial(csv.writer, quoting=csv.QUOTE_ALL) if returns else csv.writer
    writer(table, delimiter=delimiter, lineterminator=ends).writerows([("file", "caption"), *rows])
    lines = "".join(json.dumps({"file": file, "caption": text}) + ends for file, text in rows)
    for content in (table.getvalue(), lines):
        found = read(folder, content)
        assert found.unusable == ()
        assert dict(pairs(found)) == {file: tuple(texts) for file, texts in captions.items()}
