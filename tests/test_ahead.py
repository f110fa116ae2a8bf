"""Texts that a child process encodes while the results of earlier ones are read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Call, ingest_options
from test_text_tower import MakeSpec, lazy_encoder

from search.batch import answers
from search.encoder import lazy
from search.encoder.ahead import Encoded, TextsAhead
from search.encoder.clip import ClipEncoder
from search.encoder.lazy import cache_text_tower
from search.encoder.text_tower import TextTower
from search.query import Options
from search.records import Vectors
from search.searcher import Searcher
from search.settings import Settings

SECONDS = 60
LONG = "word " * 300


@pytest.fixture(scope="module")
def encoder(clip_folder: Path) -> ClipEncoder:
    encoder = ClipEncoder(str(clip_folder), device="cpu")
    assert cache_text_tower(encoder)
    return encoder


@pytest.fixture
def encoded_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that this process encodes, from now on."""
    texts: list[str] = []
    encode = TextTower.encode

    def recorded(self: TextTower, some: Sequence[str]) -> Vectors:
        texts.extend(some)
        return encode(self, some)

    monkeypatch.setattr(TextTower, "encode", recorded)
    return texts


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def started(weights: str) -> TextsAhead:
    ahead = TextsAhead(weights)

    def answered() -> dict[str, Encoded]:
        ahead.send(["a dog"])
        return ahead.receive().encoded

    until(answered)
    return ahead


def test_a_child_process_encodes_as_this_one_does(encoder: ClipEncoder) -> None:
    tower = TextTower.open(encoder.weights)
    assert tower
    ahead = started(encoder.weights)
    texts = ["a dog", "", "猫", LONG, "x" * 2**20]  # the last one is larger than the buffer of a pipe
    ahead.send(texts)
    received, seconds = ahead.receive()
    assert seconds > 0
    assert list(received) == texts
    assert np.stack([each.vector for each in received.values()]) == pytest.approx(tower.encode(texts), abs=1e-6)
    assert [each.truncation for each in received.values()] == list(map(tower.truncation, texts))
    ahead.send(["one"])
    ahead.send(["two"])
    assert list(ahead.receive().encoded) == ["two"]
    assert ahead.receive().encoded == {}


def test_a_killed_child_answers_nothing(encoder: ClipEncoder) -> None:
    ahead = started(encoder.weights)
    ahead._child.kill()
    ahead._child.wait()
    for _ in range(3):
        ahead.send(["a dog"])
        assert ahead.receive().encoded == {}


def test_a_model_without_a_tower_answers_nothing() -> None:
    ahead = TextsAhead("of no model")
    until(ahead._started.done)
    ahead.send(["a dog"])
    assert ahead.receive().encoded == {}


@pytest.mark.parametrize("ending", ["pass", "import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)"])
def test_the_child_ends_with_its_parent(encoder: ClipEncoder, ending: str) -> None:
    code = f"""
import sys
from search.encoder.ahead import TextsAhead
ahead = TextsAhead(sys.argv[1])
print(ahead._child.pid, flush=True)
ahead._started.result()
{ending}
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, encoder.weights]
    parent = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=SECONDS, check=False)
    until(lambda: has_ended(int(parent.stdout)))


def has_ended(process: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:  # it is gone, perhaps since the file was opened
        return True


def test_a_long_batch_has_the_same_answers(
    call: Call,
    photo_set: Path,
    clip_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoded_here: list[str],
) -> None:
    place = tmp_path / "index"
    assert call("ingest", *ingest_options(photo_set, clip_folder, ["--path", str(place)]))[0] == 0
    odd = [r'{"text": "\ud83d"}', '{"image_id": 105}', '{"image": "absent.jpg"}', "", "{", LONG, "noise"]
    lines = [line.encode() for number in range(60) for line in (*(f"photo {number} {n}" for n in range(9)), *odd)]

    def answered(searcher: Searcher) -> list[dict[str, Any]]:
        encoded_here.clear()
        return list(answers(searcher, [lines], Options(k=3)))

    monkeypatch.setattr(lazy, "processors", lambda: 1)
    with Searcher.open(Settings(index_path=place)) as searcher:
        expected = answered(searcher)
    most = len(encoded_here)
    monkeypatch.setattr(lazy, "processors", lambda: 2)
    monkeypatch.setattr(lazy, "SOON", 0)
    with Searcher.open(Settings(index_path=place)) as searcher:
        deadline = time.monotonic() + SECONDS
        while (found := answered(searcher)) and len(encoded_here) > most / 2:
            assert time.monotonic() < deadline
    assert [without_scores(answer) for answer in found] == [without_scores(answer) for answer in expected]
    assert [scores(answer) for answer in found] == [pytest.approx(scores(answer), abs=1e-5) for answer in expected]


def test_a_slow_child_leads_to_the_whole_model(
    encoder: ClipEncoder, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "processors", lambda: 2)
    monkeypatch.setattr(lazy, "SOON", 0)
    loaded: list[str] = []
    slow = lazy_encoder(encoder, make_spec, loaded, patience=10.0)
    texts = [f"text {number}" for number in range(20)]

    def received() -> bool:
        slow.expect_texts(texts)
        slow.encode_texts(texts)
        return bool(slow._received)

    until(received)
    receive = TextsAhead.receive
    monkeypatch.setattr(TextsAhead, "receive", lambda self: receive(self)._replace(seconds=11.0))
    assert received()
    assert loaded == []
    assert not received() or slow._ahead is None
    assert loaded == ["auto"]


def without_scores(answer: dict[str, Any]) -> dict[str, Any]:
    hits = [{name: hit[name] for name in hit if name not in ("score", "cosine")} for hit in answer.get("hits", [])]
    return {**answer, "hits": hits}


def scores(answer: dict[str, Any]) -> list[float]:
    return [hit["score"] for hit in answer.get("hits", [])]
