"""The words of a filter: some are looked up in the index, the others are compared with each hit.

The index finds words between spaces, with or without their accents. Its tokenizer ignores numbers. Text of scripts that
put no spaces between words, or that append particles to them, it splits differently in a query than in a caption. So
numbers and text in these scripts are compared here.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import Self

from search.errors import QueryError, TextError
from search.index import Where
from search.records import Caption, Image
from search.text import check_text

_UNSPACED = re.compile(  # Thai and Lao, Burmese, Khmer, Japanese kana, Chinese characters, Korean
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_NUMBER = re.compile(r"(?<![^\W_])\d+(?![^\W_])")


@dataclass(frozen=True, slots=True)
class Words:
    """A parsed filter: text for the index to look up (may be empty), whole numbers, and pieces of unspaced text."""

    indexed: str
    numbers: frozenset[str]
    pieces: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a filter.

        Raises:
            QueryError: it contains neither a letter nor a digit, or is not valid Unicode.
        """
        try:
            normal = unicodedata.normalize("NFKC", check_text(text))
        except TextError as error:
            raise QueryError(f"the words to filter by: {error}") from None
        pieces = frozenset(piece for run in _UNSPACED.findall(normal) for piece in _parts(run))
        rest = _UNSPACED.sub(" ", normal)
        numbers = frozenset(_NUMBER.findall(rest))
        rest = _NUMBER.sub(" ", rest).strip()
        indexed = rest if any(char.isalpha() for char in rest) else ""
        if not (indexed or numbers or pieces):
            raise QueryError(f"{text!r} contains no word to filter by: use letters or digits")
        return cls(indexed, numbers, pieces)

    @property
    def are_compared(self) -> bool:
        """Whether some of the words must be compared with each record, because the index does not find them."""
        return bool(self.numbers or self.pieces)

    def match(self, record: Image | Caption | None) -> bool:
        """Return whether the numbers and pieces occur in the text of a caption, or in the captions of an image."""
        if not self.are_compared:
            return True
        match record:
            case Image(captions=captions):
                text = "\n".join(captions)
            case Caption(text=text):
                pass
            case None:
                return False
        normal = unicodedata.normalize("NFKC", text)
        numbers = _NUMBER.findall(_UNSPACED.sub(" ", normal))
        return self.numbers.issubset(numbers) and all(piece in normal for piece in self.pieces)


def divide(where: Where) -> tuple[Where, Words]:
    """Divide a filter into what the index looks up and the words that it does not, which are compared.

    A point has to pass both. A negated filter could not be divided like this.

    Raises:
        QueryError: the words cannot be parsed.
    """
    if where.contains is None:
        return where, Words("", frozenset(), frozenset())
    words = Words.parse(where.contains)
    return replace(where, contains=words.indexed or None), words


def _parts(run: str) -> list[str]:
    """Split a run of unspaced text at its punctuation."""
    spaced = "".join(" " if unicodedata.category(char)[0] in "PSZ" else char for char in run)
    return [part for part in spaced.split() if any(unicodedata.category(char)[0] in "LN" for char in part)]
