"""Encode the texts of the next queries in a child process, while this process searches for the current ones.

A thread would not do: the embedded engine holds the interpreter lock while it searches.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from search.encoder import Truncation
from search.encoder.text_tower import TextTower
from search.processes import command_of
from search.records import Vectors


class Encoded(NamedTuple):
    """The vector of a text, float32 (dim,) of unit length, and how much of the text the model reads, None if all."""

    vector: Vectors
    truncation: Truncation | None


class Answer(NamedTuple):
    """Encoded texts, by text, and the seconds of processor time that encoding them took."""

    encoded: dict[str, Encoded]
    seconds: float


NOTHING = Answer({}, 0.0)


class TextsAhead:
    """A child process that encodes texts with the text tower of the model with these weights.

    It ends with this process, however that ends, because its standard input is then closed. While it starts, and after
    it has ended, no texts are encoded.

    Raises:
        OSError, RuntimeError: it, or the thread that waits for it, cannot be started.
    """

    def __init__(self, weights: str) -> None:
        self._child = subprocess.Popen(
            command_of(__name__, "_serve", weights),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        weakref.finalize(self, _end, self._child)
        self._thread = ThreadPoolExecutor(1)  # writes and reads, so that `send` does not block on a full pipe
        self._started = self._thread.submit(self._ask, [])
        self._coming: Future[Answer] | None = None

    def send(self, texts: Sequence[str]) -> None:
        """Begin to encode valid Unicode texts, unless the child process is still starting."""
        if self._started.done():
            self.receive()
            self._coming = self._thread.submit(self._ask, texts)

    def receive(self) -> Answer:
        """Wait for the texts that were sent last, and return them encoded; `NOTHING` if there are none."""
        coming, self._coming = self._coming, None
        return coming.result() if coming else NOTHING

    def _ask(self, texts: Sequence[str]) -> Answer:
        to_child, from_child = self._child.stdin, self._child.stdout
        assert to_child
        assert from_child
        try:
            pickle.dump(list(texts), to_child)
            to_child.flush()
            vectors, truncations, seconds = pickle.load(from_child)
        except (OSError, EOFError, pickle.UnpicklingError):  # it has ended
            return NOTHING
        return Answer(dict(zip(texts, map(Encoded, vectors, truncations), strict=True)), seconds)


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(BrokenPipeError), child:  # closes the pipes, and waits
        child.kill()


def _serve(weights: str) -> None:
    """Answer each list of texts on standard input, until that ends; the child process runs this."""
    tower = TextTower.open(weights)
    while tower:
        try:
            texts = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        start = time.thread_time()
        vectors, truncations = tower.encode(texts), list(map(tower.truncation, texts))
        pickle.dump((vectors, truncations, time.thread_time() - start), sys.stdout.buffer)
        sys.stdout.buffer.flush()
