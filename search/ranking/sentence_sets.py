"""Store a set of sentences as short hashes of their words, and look sentences up in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from search.ranking.sentences import words_of

HASH_BYTES = 6  # of 25,000 sentences against 5,000, one pair in two million has equal hashes by chance


def pack(texts: Iterable[str]) -> str:
    """Return a set of sentences in base64, for `are_in`."""
    unique = np.unique(_hashes(texts)).astype("<u8")
    return base64.b64encode(unique.view(np.uint8).reshape(-1, 8)[:, :HASH_BYTES].tobytes()).decode()


def are_in(packed: str, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return, as bool (n,), which sentences have the words of one in the set that `pack` returned."""
    content = np.frombuffer(base64.b64decode(packed), dtype=np.uint8).reshape(-1, HASH_BYTES)
    padded = np.zeros((len(content), 8), dtype=np.uint8)
    padded[:, :HASH_BYTES] = content
    return np.isin(_hashes(texts), padded.view("<u8").reshape(-1))


def _hashes(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    def hash_of(text: str) -> int:
        words = words_of(text).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(words, digest_size=HASH_BYTES).digest(), "little")

    return np.fromiter(map(hash_of, texts), dtype=np.uint64)
