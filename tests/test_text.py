"""One policy for text: what is refused, what is spelled out, and that written JSON is strict."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import TextError
from search.text import check_text, decode_text, holds_unicode, parse_json, read_path, spell_path, to_json

ANY_TEXT = st.text(st.characters(codec=None))
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1"]
)
def test_text_in_another_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(TextError, match="UTF"):
        decode_text("déjà vu, twice".encode(encoding))
    with pytest.raises(TextError, match="UTF"):
        decode_text("é".encode(encoding))


def test_utf8_is_read_with_and_without_a_mark() -> None:
    assert decode_text("déjà vu".encode()) == decode_text("déjà vu".encode("utf-8-sig")) == "déjà vu"
    assert decode_text(b"") == ""
    with pytest.raises(TextError, match="NUL"):
        decode_text(b"a dog\0")
    with pytest.raises(TextError, match="half of a surrogate pair"):
        check_text("a dog \ud83d")


@given(ANY_JSON, st.booleans())
def test_written_json_is_strict_and_can_be_encoded(value: object, ascii_only: bool) -> None:
    text = to_json(value, ascii_only=ascii_only)
    text.encode("ascii" if ascii_only else "utf-8")
    again = parse_json(text)
    to_json(again).encode()
    if "\\ud" not in text:
        assert again == value


def test_json_spells_lone_surrogates_as_every_parser_can_read() -> None:
    assert json.loads(to_json({"a \ud83d": "…🐶\udce9"}, ascii_only=True)) == {"a \\ud83d": "…🐶\\udce9"}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"k": -Infinity}', "1e999"])
def test_numbers_that_json_cannot_hold_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|large"):
        parse_json(text)


@given(st.lists(st.binary(min_size=1, max_size=8).filter(lambda name: b"/" not in name and b"\0" not in name)))
def test_a_path_of_any_bytes_can_be_spelled(names: list[bytes]) -> None:
    path = Path(os.fsdecode(b"/" + b"/".join(names)))
    spelled = spell_path(path)
    spelled.encode()
    assert read_path(spelled) == path


def test_streams_that_can_write_any_character() -> None:
    assert holds_unicode(io.TextIOWrapper(io.BytesIO(), encoding="utf8"))
    assert not holds_unicode(io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    assert holds_unicode(None)
