"""The table of results fits the terminal, whatever the captions contain, and is plain text elsewhere."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from conftest import Call, ingest_options
from hypothesis import given
from hypothesis import strategies as st

from search.cli.terminal import Place, Style, columns, cut, one_line, table
from search.records import Caption, Hit, Image

ROOT = Path(__file__).parents[1]
ESCAPES = re.compile(r"\x1b\[\d+m|\x1b]8;;[^\x1b]*\x1b\\")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def image(number: int, caption: str | None, **more: object) -> Hit:
    record = Image(id=number, split="test", order=0, file=f"val2014/{number}.jpg", url=None, captions=())
    return Hit(number, 0.5, record, caption=caption, **more)  # type: ignore[arg-type]


def caption(number: int, text: str) -> Hit:
    return Hit(number, 0.25, Caption(id=number, image_id=7, split="test", position=0, text=text, url=None), rank=1)


@given(text=st.text(), width=st.integers(min_value=30, max_value=200))
def test_a_row_is_one_line_that_fits(text: str, width: int) -> None:
    head, *rows = table([image(1, text), image(22, "a dog")], Style(width)).split("\n")
    assert len(rows) == 2
    assert head.endswith("caption")
    for row in rows:
        assert columns(row) <= width
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in row)
        row.encode()


@pytest.mark.parametrize(
    ("text", "shortened"),
    [
        ("a red bus", "a red bus"),
        ("a red double-decker", "a red dou…"),
        ("赤いバスが走る", "赤いバス…"),
        ("e\u0301" * 10, "e\u0301" * 10),
        ("🐶🐶🐶🐶🐶🐶", "🐶🐶🐶🐶…"),
    ],
)
def test_wide_characters_take_two_columns(text: str, shortened: str) -> None:
    assert cut(text, 10) == shortened


def test_odd_text_cannot_control_the_terminal() -> None:
    assert one_line("a\tdog\r\n\x1b[31mred\u202e caf\udce9") == "a dog [31mred caf\\udce9"
    assert one_line("\u0645\u06cc\u200c\u062e") == "\u0645\u06cc\u200c\u062e"  # a joiner within a Persian word


def test_captions_come_first_and_files_below() -> None:
    places = {1: Place("/photos/val2014/" + "long/" * 30 + "1.jpg", "file:///photos/1.jpg")}
    hits = [image(1, "A dog.", also=(image(2, None),), rank=11), image(3, None, rank=12), caption(5, "A cat.")]
    plain = table(hits, Style(80), places=places, files=True).split("\n")
    assert plain == [
        "rank   score  image  caption",
        "  11  0.5000      1  A dog. (+1)",
        " " * 21 + places[1].path,
        "  12  0.5000      3  val2014/3.jpg",
        "",
        "rank   score  image  caption",
        "   1  0.2500      7  A cat.",
    ]
    styled = table(hits, Style(80, escapes=True), places=places, files=True)
    assert "\x1b]8;;file:///photos/1.jpg\x1b\\1\x1b]8;;\x1b\\" in styled
    assert ESCAPES.sub("", styled).split("\n") == plain


def test_an_address_cannot_leave_its_link() -> None:
    for address in ("https://example.org/\x1b\\x", "https://example.org/\u202e"):
        assert Style(80, escapes=True).link("1", address) == "1"


def test_only_a_terminal_gets_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Style.of(Terminal()).escapes
    assert not Style.of(io.StringIO()).escapes
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Style.of(Terminal()).escapes
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Style.of(Terminal()).escapes


def test_streams_that_are_closed(call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path) -> None:
    place = ["--path", str(tmp_path / "index")]
    assert call("ingest", *ingest_options(photo_set, clip_folder, place))[0] == 0
    for command, closed in ((["search", "image", "105"], ">&-"), (["eval", "run"], "2>&-")):
        words = shlex.join([sys.executable, "-m", *command, *place])
        done = subprocess.run(f"{words} {closed}", shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, bool(done.stdout)) == (0, "", closed == "2>&-")
