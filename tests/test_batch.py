"""Rich queries on the command line, one by one and many at once."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import webbrowser
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import PHOTO_TEXT_MODEL, SAMPLE, Call, everywhere, ingest_options, needs, one_line_error

from search.__main__ import main as search_main
from search.batch import lines_of
from search.errors import TextError


@pytest.fixture
def filled(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> list[str]:
    assert call("ingest", *ingest_options(photo_set, clip_folder, place))[0] == 0
    return place


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_option_at_once(call: Call, photo_set: Path, filled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    photo = next((photo_set / "images/val2014").glob("*105.jpg"))
    mix = ["noise", "--plus", "colours^0.5", "--minus", "people", "--plus-image", 101, "--minus-image", f"{photo}^2"]
    code, out, err = call("search", "text", *mix, "--to", "both", "-k", 4, "--offset", 1, "--json", "--open", *filled)
    assert code == 0, err
    found = objects(out)
    assert [(hit["kind"], hit["rank"]) for hit in found] == [
        (kind, rank) for kind in ("image", "caption") for rank in (2, 3, 4, 5)
    ]
    assert 101 not in [hit["image_id"] for hit in found if hit["kind"] == "image"]
    assert all(hit["also"] == [] for hit in found)
    page = Path(shown[0].removeprefix("file://")).read_text()
    assert f"noise + 0.5 colours + image 101 - people - 2 image {photo}" in page

    wanted = ["--to", "captions", "--contains", "sentence photo", "--split", "val", "--group", "-k", 60]
    found = objects(call("search", "image", 105, *wanted, "--json", *filled)[1])
    assert sorted(hit["image_id"] for hit in found) == [108, 109, 110, 111]  # type: ignore[type-var]
    assert [len(hit["also"]) for hit in found] == [4] * 4  # type: ignore[arg-type]
    code, out, _ = call("search", "image", 105, *wanted, *filled)
    assert len(re.findall(r"  Photo .* \(\+4\)$", out, re.M)) == 4
    assert call("search", "image", 105, *wanted, "--contains", "zebra", *filled)[1] == "nothing found\n"

    found = objects(
        call("search", "image", 105, "--to", "images", "--image-id", 101, "--image-id", 105, "--json", *filled)[1]
    )
    assert [hit["image_id"] for hit in found] == [101]
    plain = objects(call("search", "text", "noise", "-k", 12, "--json", "--exact", *filled)[1])
    table = call("search", "text", "noise", "-k", 12, "--exact", *filled)[1].splitlines()[1:]
    for hit, row in zip(plain, table, strict=True):
        mine = ["text", "noise", "--to", "captions", "--image-id", hit["image_id"], "-k", 1, "--exact", "--json"]
        [nearest] = objects(call("search", *mine, *filled)[1])
        assert hit["caption"] == nearest["text"]
        assert row.endswith(f"  {nearest['text']}")
    scores = [hit["score"] for hit in plain]
    third = ["--min-score", (scores[2] + scores[3]) / 2, "--json", *filled]  # type: ignore[operator]
    assert objects(call("search", "text", "noise", *third)[1]) == plain[:3]
    cut = objects(call("search", "text", "noise", "--cutoff", 0.5, "-k", 12, "--json", *filled)[1])
    assert cut == [hit for hit in plain if hit["score"] >= (np.mean(scores) + scores[0]) / 2]  # type: ignore[arg-type, operator]
    assert 0 < len(cut) < 12
    [one] = objects(call("search", "text", "noise", "--fold", 0, "-k", 12, "--json", *filled)[1])
    assert one["image_id"] == plain[0]["image_id"]
    assert len(one["also"]) == 11  # type: ignore[arg-type]


def test_mixes_that_cannot_be_asked(call: Call, filled: list[str]) -> None:
    assert "cancel each other out" in one_line_error(call("search", "text", "noise", "--minus", "noise", *filled))
    assert "no image 424242" in one_line_error(call("search", "text", "noise", "--minus-image", 424242, *filled))
    assert "absent.jpg" in one_line_error(call("search", "image", 105, "--plus-image", "absent.jpg", *filled))
    assert call("search", "text", "noise", "--cutoff", 2, *filled)[0] == 2
    assert call("search", "text", "noise", "--to", "sounds", *filled)[0] == 2


@everywhere
def test_a_batch(call: Call, photo_set: Path, filled: list[str]) -> None:
    photo = next((photo_set / "images/val2014").glob("*105.jpg"))
    lines = [
        b"noise",
        b"  ",
        json.dumps({"text": "noise", "k": 1, "to": "captions"}).encode(),
        json.dumps({"parts": [{"image": str(photo), "weight": 2}, {"text": "noise", "weight": -1}]}).encode(),
        json.dumps({"image_id": 105, "to": "images", "splits": ["test"], "offset": 2, "k": 2}).encode(),
        json.dumps({"caption_id": 3, "contains": "photo 3", "to": "both"}).encode(),
        "d\u00e9j\u00e0 vu^0.5\r".encode(),
        b'{"text": "noise", "image_ids": [101]}',
        b'{"text": "noise", "kk": 1}',
        b'{"parts": [{"text": "noise", "weight": "heavy"}]}',
        b"{noise",
        b'{"parts": []}',
        b'{"text": "\\ud800"}',
        b"caf\xe9",
        b'{"image": "absent.jpg"}',
        b'{"text": "noise", "splits": ["dev"]}',
        b'{"text": "noise", "k": 1000000000000000000000000}',
        b'{"a": ' + b"[" * 100_000,
        b"the last line",
    ]
    Path("queries.txt").write_bytes(b"\n".join(lines))
    code, out, err = call("search", "batch", "queries.txt", "-k", 2, *filled)
    assert code == 3
    found = objects(out)
    good = [1, 3, 4, 5, 6, 7, 8, 19]
    assert [answer["line"] for answer in found] == [number for number in range(1, 20) if number != 2]
    assert [answer["line"] for answer in found if "hits" in answer] == good
    for answer in found:
        if "error" in answer:
            assert f"queries.txt, line {answer['line']}: {answer['error']}\n" in err
    assert "10 of the queries could not be answered" in err

    answers = {answer["line"]: answer for answer in found}
    assert answers[1]["query"] == "noise"
    assert answers[3]["query"] == {"text": "noise", "k": 1, "to": "captions"}
    for line, command in (
        (1, ["text", "noise", "-k", 2]),
        (3, ["text", "noise", "-k", 1, "--to", "captions"]),
        (4, ["image", f"{photo}^2", "--minus", "noise", "--to", "images", "-k", 2]),
        (5, ["image", 105, "--to", "images", "--split", "test", "--offset", 2, "-k", 2]),
        (7, ["text", "d\u00e9j\u00e0 vu", "-k", 2]),
        (8, ["text", "noise", "--image-id", 101]),
    ):
        alone = objects(call("search", *command, "--json", *filled)[1])
        hits = answers[line]["hits"]
        assert isinstance(hits, list)
        assert [hit["image_id"] for hit in hits] == [hit["image_id"] for hit in alone], line
        assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in alone], abs=1e-5)
    assert "no such file" in one_line_error(call("search", "batch", "absent.txt", *filled)).lower()


def start_batch(place: list[str], *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "search", "batch", "-", "-k", "1", *more, *place]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


def ask(process: subprocess.Popen[bytes], query: bytes) -> dict[str, object]:
    assert process.stdin
    assert process.stdout
    process.stdin.write(query + b"\n")
    process.stdin.flush()
    assert select.select([process.stdout], [], [], 120)[0], "no answer while the input stays open"
    answer: dict[str, object] = json.loads(process.stdout.readline())
    return answer


def test_lines_that_are_not_text_spoil_no_other_line(call: Call, filled: list[str]) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "noise", "k": 1}\r',
        b'{"text": "a dog \\ud83d"}',
        b'{"text": "noise", "\\udc00": 1}',
        b'{"text": "noise", "splits": ["\\ud800"]}',
        b'{"image": "a\\u0000.jpg"}',
        b"a\0b",
        b'{"text": "noise", "weight": NaN}',
        b'{"text": "noise", "min_score": -1e999}',
        b'{"text": "noise", "contains": "..."}',
        "a…b".encode("utf-16-le"),
        b'\xef\xbb\xbf{"text": "noise", "k": 1}',
    ]
    Path("queries.txt").write_bytes(b"\n".join(lines))
    code, out, _ = call("search", "batch", "queries.txt", *filled)
    assert code == 3
    found = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [answer["line"] for answer in found] == list(range(1, 12))
    assert [answer["line"] for answer in found if "hits" in answer] == [1, 11]
    assert [len(found[number]["hits"]) for number in (0, 10)] == [1, 1]
    assert found[1]["query"] == {"text": "a dog \\ud83d"}
    assert "half of a surrogate pair" in found[1]["error"]
    assert "NUL" in found[5]["error"]
    assert "NaN" in found[6]["error"]
    bytewise = Mock(read1=Mock(side_effect=[bytes([each]) for each in "noise".encode("utf-16-le")]))  # as of a pipe
    with pytest.raises(TextError, match="UTF-16"):
        list(lines_of(bytewise))
    for encoding in ("utf-16", "utf-16-be", "utf-32-le"):
        Path("queries.txt").write_bytes("noise\nnoise\n".encode(encoding))
        assert "UTF-16" in one_line_error(call("search", "batch", "queries.txt", *filled))


@pytest.mark.parametrize("content", [b"noise", b"\n\n\n", b"\n", b"x" * 200_000 + b"\nnoise\n", b""])
def test_lines_that_are_blank_long_or_not_ended(call: Call, filled: list[str], content: bytes) -> None:
    Path("queries.txt").write_bytes(content)
    code, out, err = call("search", "batch", "queries.txt", *filled)
    lines = [number for number, line in enumerate(content.split(b"\n"), 1) if line]
    assert (code, [answer["line"] for answer in objects(out)]) == (0, lines), err
    assert all(answer["hits"] for answer in objects(out))


def test_a_name_that_is_given_twice_is_an_error(call: Call, filled: list[str]) -> None:
    Path("queries.txt").write_text('{"text": "a", "text": "b"}\n{"parts": [{"text": "a", "text": "b"}]}\n')
    code, out, _ = call("search", "batch", "queries.txt", *filled)
    assert (code, ["'text' is given twice" in str(answer["error"]) for answer in objects(out)]) == (3, [True, True])


def test_a_batch_reads_the_standard_input_of_its_own_process(
    call: Call, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("queries.txt").write_bytes(b"read already\nnoise\n")
    with Path("queries.txt").open("rb") as stream:
        stream.readline()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
        assert [answer["query"] for answer in objects(call("search", "batch", "-", *filled)[1])] == ["noise"]
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in one_line_error(call("search", "batch", "-", *filled))


def test_results_on_a_stream_that_cannot_hold_them(
    call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ["--path", str(tmp_path / "index")]
    assert call("ingest", *ingest_options(photo_set, clip_folder, place))[0] == 0
    Path("queries.txt").write_text("été … 狗 🐶\n", encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "40")
    for encoding in ("latin-1", "cp1252", "ascii", "utf-8"):
        for arguments in (["batch", "queries.txt"], ["text", "noise", "--to", "captions"]):
            written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            monkeypatch.setattr(sys, "stdout", written)
            monkeypatch.setattr(sys, "argv", ["search", *arguments, *place])
            with pytest.raises(SystemExit) as end:
                search_main()
            assert not end.value.code
            written.flush()
            content = written.buffer.getvalue()
            if arguments[0] == "batch":  # the same JSON, in ASCII if it has to be
                answer = json.loads(content.decode("utf-8" if encoding == "utf-8" else "ascii"))
                assert answer["query"] == "été … 狗 🐶"
            else:
                assert content.count("…".encode("utf-8" if encoding == "ascii" else encoding, "backslashreplace")) == 10


@pytest.mark.usefixtures("ctrl_c")
def test_each_query_is_answered_at_once_and_ctrl_c_ends_it(
    call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path
) -> None:
    place = ["--path", str(tmp_path / "index")]
    call("ingest", *ingest_options(photo_set, clip_folder, place))
    with start_batch(place) as process:
        assert ask(process, b"noise")["line"] == 1
        assert ask(process, b'{"image_id": 105}')["line"] == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()


def test_nobody_reads_on(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    call("ingest", *ingest_options(photo_set, clip_folder, place))
    with start_batch(place) as process:
        assert ask(process, b'{"image_id": 105}')["line"] == 1
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write(b'{"image_id": 105}\n' * 1000)
        process.stdin.close()
        assert process.wait(60) in (0, 1)
        assert process.stderr.read() == b""


@needs(SAMPLE)
@needs(PHOTO_TEXT_MODEL)
def test_a_mix_of_real_photos_and_words(call: Call, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    files = ["--annotations", SAMPLE / "dataset_coco.json", "--images", SAMPLE / "images", "--limit", 24]
    assert call("ingest", "run", *files, "--split", "test", "--model", PHOTO_TEXT_MODEL, *place)[0] == 0
    plain = objects(call("search", "text", "a dog", "-k", 24, "--json", *place)[1])
    best = plain[0]["image_id"]
    mixed = objects(call("search", "text", "a dog", "--minus-image", best, "-k", 24, "--json", *place)[1])
    assert best not in [hit["image_id"] for hit in mixed]
    # What was added comes up: with the photo of a caption added, that photo is further up than without it.
    last = plain[-1]
    sentence = last["captions"][0]  # type: ignore[index]
    added = objects(call("search", "text", "a dog", "--plus", f"{sentence}^3", "-k", 24, "--json", *place)[1])
    assert [hit["image_id"] for hit in added].index(last["image_id"]) < 8


def test_a_text_longer_than_the_model_reads(call: Call, filled: list[str], tmp_path: Path) -> None:
    """The tiny CLIP reads 77 tokens; a letter is one, two mark start and end."""
    code, out, err = call("search", "text", "x" * 100, "--plus", "short", "--json", *filled)
    assert (code, len(out.splitlines())) == (0, 10)
    note = f"note: the model reads the first 77 of the 102 tokens of: {'x' * 60}…"
    assert [line for line in err.splitlines() if line.startswith("note")] == [note]
    assert "note" not in call("search", "text", "short", *filled)[2]
    (tmp_path / "queries").write_text("short\n" + json.dumps({"parts": [{"text": "a"}, {"text": "x" * 100}]}) + "\n\n")
    code, out, err = call("search", "batch", tmp_path / "queries", *filled)
    short, long = map(json.loads, out.splitlines())
    assert (code, long["truncated"]) == (0, [{"part": 1, "read": 77, "given": 102}])
    assert "truncated" not in short
