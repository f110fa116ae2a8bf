"""Encode the texts of coming queries in a child process, while this process searches for the present ones.

A thread would not do: the embedded engine holds the interpreter lock while it searches.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from search.encoder import Truncation
from search.encoder.text_tower import TextTower
from search.records import Vectors

_COMMAND = "import sys; from search.encoder.ahead import _serve; _serve(sys.argv[1])"


class Encoded(NamedTuple):
    """The vector of a text, float32 (dim,) of unit length, and how much of the text the model reads, None if all."""

    vector: Vectors
    truncation: Truncation | None


class TextsAhead:
    """A child process that encodes texts with the text tower of the model with these weights.

    It ends with this process, however that ends, because its standard input ends then. While it starts, and after it
    was killed, it returns nothing.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, weights: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, weights],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        weakref.finalize(self, _end, self._child)
        self._thread = ThreadPoolExecutor(1)  # so that neither process waits for the other one to read
        self._started = self._thread.submit(self._ask, [])
        self._coming: Future[dict[str, Encoded]] | None = None

    def send(self, texts: Sequence[str]) -> None:
        """Begin to encode valid Unicode texts, unless the child process is still starting."""
        if self._started.done():
            self.receive()
            self._coming = self._thread.submit(self._ask, texts)

    def receive(self) -> dict[str, Encoded]:
        """Return what became of the texts that were sent last, by text."""
        coming, self._coming = self._coming, None
        return coming.result() if coming else {}

    def _ask(self, texts: Sequence[str]) -> dict[str, Encoded]:
        to_child, from_child = self._child.stdin, self._child.stdout
        assert to_child
        assert from_child
        try:
            pickle.dump(list(texts), to_child)
            to_child.flush()
            vectors, truncations = pickle.load(from_child)
        except (OSError, EOFError, pickle.UnpicklingError):  # it has ended
            return {}
        return dict(zip(texts, map(Encoded, vectors, truncations), strict=True))


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def _serve(weights: str) -> None:
    """Answer each list of texts on standard input, until that ends; the child process runs this."""
    tower = TextTower.open(weights)
    while tower:
        try:
            texts = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump((tower.encode(texts), list(map(tower.truncation, texts))), sys.stdout.buffer)
        sys.stdout.buffer.flush()
