"""Encode texts one by one: wrap them in the prompt, skip those that are not valid Unicode, encode equal ones once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from search.errors import EncoderError, TextError
from search.records import Vectors
from search.text import check_text


def wrap(texts: Sequence[str], prompt: str | None) -> list[str]:
    """Return the texts within the prompt, which contains `{}` once."""
    return [prompt.replace("{}", text) if prompt else text for text in texts]


def check_prompt(prompt: str) -> None:
    """Raise EncoderError unless the prompt contains `{}` once and is valid Unicode."""
    if prompt.count("{}") != 1:
        raise EncoderError(f"the prompt {prompt!r} must contain exactly one {{}}, which stands for the text")
    try:
        check_text(prompt)
    except TextError as error:
        raise EncoderError(f"the prompt {prompt!r} cannot be used: {error}") from None


def is_valid(text: str) -> bool:
    """Return whether a text is valid Unicode."""
    try:
        check_text(text)
    except TextError:
        return False
    return True


def encode_each(texts: Sequence[str], encode: Callable[[list[str]], Vectors], dim: int) -> Vectors:
    """Return the vectors of texts, float32 (n, dim): equal ones for equal texts, NaN for one that is not valid Unicode.

    `encode` is called once, with each valid text once.
    """
    once = [text for text in dict.fromkeys(texts) if is_valid(text)]
    row = {text: number for number, text in enumerate(once)}
    vectors = encode(once) if once else np.empty((0, dim), dtype=np.float32)
    unusable = np.full((1, dim), np.nan, dtype=np.float32)
    return np.concatenate([vectors, unusable])[[row.get(text, len(once)) for text in texts]]
