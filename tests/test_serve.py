"""Test `python -m search serve` as a process: start, shutdown, and other commands that read its index."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import struct
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from conftest import Call, ingest_options, one_line_error, write_photo_set
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from running_web import Web, serving

from search.encoder.clip import ClipEncoder
from search.errors import CollectionMissing, IndexBusy
from search.index import Index, ReadIndex, SearchParams, Where, open_for_writing, open_index
from search.index.edge.index import EdgeIndex
from search.index.relay.announce import Running, announced, find_running
from search.index.relay.client import RemoteIndex
from search.index.relay.wire import PARAMS, PackedVectors, pack, unpack
from search.photos import open_image
from search.records import Vectors
from search.settings import Settings

COMMANDS = (
    ("search", "text", "Photo 3 in words", "--json"),
    ("search", "image", 103, "--to", "captions", "-k", 7, "--json"),
    ("search", "image", 103, "--plus", "noise", "--split", "val", "--json"),
    ("search", "batch", "queries.txt"),
    ("ingest", "status", "--json"),
    ("eval", "run", "--json"),
)


@pytest.fixture
def index(tmp_path: Path, clip_folder: Path, call: Call) -> Path:
    """A small index for tests that change it or stop its server."""
    photos = write_photo_set(tmp_path / "photos", photos=12)
    path = tmp_path / "index"
    assert call("ingest", *ingest_options(photos, clip_folder, ["--path", str(path)]))[0] == 0
    return path


def test_while_it_runs_other_commands_answer_the_same_and_write_nothing(
    call: Call, index: Path, clip_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "queries.txt").write_text("Photo 3\nPhoto 5 in words\n")
    place = ["--path", str(index)]
    writing = (
        ("ingest", *ingest_options(index.parent / "photos", clip_folder, place)),
        ("ingest", "drop", "--dataset", "coco", "--yes", *place),
        ("search", "serve", *place),
    )
    alone = [call(*command, *place) for command in COMMANDS]
    assert {code for code, _, _ in alone} == {0}
    with serving(index) as (address, process):
        together = [call(*command, *place) for command in COMMANDS]
        status = call("ingest", "status", *place)[1]
        errors = [one_line_error(call(*command)) for command in writing]
    for command, before, during in zip(COMMANDS, alone, together, strict=True):
        if command[0] == "eval":  # its output includes the duration
            assert scores(during) == scores(before)
            continue
        assert without_size(during, f", through python -m search serve, process {process.pid}") == without_size(before)
    assert f"through python -m search serve, process {process.pid}" in status
    for error in errors:
        assert f"process {process.pid}: python -m search serve, at {address}" in error
        assert "stop it" in error
    assert call("ingest", "drop", "--dataset", "coco", "--yes", *place)[0] == 0


def without_size(result: tuple[int, str, str], words: str = "") -> tuple[int, str, str]:
    """Return a result without words, and without the size of a collection: in memory, holes in files fill when read."""
    code, out, err = result
    return code, re.sub(r'"disk_bytes": \d+', "", out.replace(words, "")), err


def scores(result: tuple[int, str, str]) -> tuple[int, str, str]:
    report = json.loads(result[1])
    return result[0], json.dumps({key: report[key] for key in ("image-to-text", "text-to-image", "fingerprint")}), ""


def test_reading_through_the_server_keeps_the_contract_of_an_index(web: Web) -> None:
    index = open_index(Settings(index_path=web.index))
    assert isinstance(index, RemoteIndex)
    assert index.count("coco_captions", where=Where(splits=("val",), max_position=1)) == 40
    assert [len(batch.records) for batch in index.scan("coco_captions")] == [300]
    read = index.retrieve("coco_images", [130, 7, 110], vectors=True)
    assert [record.id for record in read.records] == [130, 110]
    assert read.vectors is not None
    assert (read.vectors[1] == web.images[110]).all()
    [hits] = index.query("coco_images", read.vectors[:1], 3, SearchParams(exact=True, payload=False, offset=1))
    assert [hit.id for hit in hits] == web.nearest_images(web.images[130])[1:4]
    assert hits[0].record is None
    info = index.info("coco_images")
    assert (info.points, info.spec) == (60, index.spec("coco_images"))
    with pytest.raises(CollectionMissing, match="no collection coco_videos"):
        index.count("coco_videos")
    writing = {name for name in vars(Index) if not name.startswith("_")} - {*vars(ReadIndex)}
    assert {"create", "upsert", "drop"} <= writing
    assert not [name for name in writing if hasattr(index, name)]
    index.close()
    with pytest.raises(IndexBusy, match="python -m search serve"):
        open_for_writing(Settings(index_path=web.index))


@given(arrays.arrays("float32", st.tuples(st.integers(0, 3), st.integers(1, 5))))
def test_vectors_are_transferred_exactly(vectors: Vectors) -> None:
    unpacked = PackedVectors.model_validate_json(PackedVectors.of(vectors).model_dump_json()).unpack()
    assert unpacked.tobytes() == vectors.tobytes()
    assert unpacked.shape == vectors.shape


@given(
    st.builds(
        Where,
        splits=st.none() | st.lists(st.text()).map(tuple),
        ids=st.none() | st.lists(st.integers(0, 2**63)).map(tuple),
        contains=st.none() | st.text(),
        max_position=st.none() | st.integers(0, 9),
    )
)
def test_filters_are_transferred_unchanged(where: Where) -> None:
    params = SearchParams(ef=9, where=where)
    assert unpack(PARAMS, json.loads(json.dumps(pack(PARAMS, params)))) == params


def test_other_commands_encode_with_its_model(call: Call, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_the_model(web.address)
    photo = next(web.photos.rglob("*.jpg"))
    [expected] = web.encoder.encode_images([open_image(photo)])
    monkeypatch.setattr(ClipEncoder, "__init__", lambda *_, **__: pytest.fail("a model is loaded"))
    options = ["--to", "images", "-k", 5, "--json", "--path", web.index]
    code, out, _ = call("search", "image", photo, *options)
    assert code == 0
    assert [json.loads(line)["image_id"] for line in out.splitlines()] == web.nearest_images(expected)[:5]
    Path("empty.jpg").write_bytes(b"")
    assert "empty.jpg" in one_line_error(call("search", "image", "empty.jpg", *options))
    model = open_index(Settings(index_path=web.index)).served_model()
    assert model
    np.testing.assert_allclose(model.encode_texts(["noise", ""]), web.encoder.encode_texts(["noise", ""]), atol=1e-5)
    assert np.isnan(model.encode_texts(["\ud83d"])).all()


def test_a_dead_server_does_not_own_the_index(index: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        gone = Running(f"http://127.0.0.1:{listener.getsockname()[1]}")
    with announced(index, gone):
        assert find_running(index) is None
        assert isinstance(open_index(Settings(index_path=index)), EdgeIndex)
    (index / ".serve.json").write_text("{broken")
    assert find_running(index) is None


def test_another_server_on_the_old_port_is_not_trusted(web: Web, index: Path) -> None:
    """The announcement of a killed server remains, and its port belongs to another server now."""
    with announced(index, Running(web.address)):
        assert isinstance(open_index(Settings(index_path=index)), EdgeIndex)


def test_running_requests_finish_before_it_stops(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = index.parent / "opened"
    monkeypatch.setenv("BROWSER", f"sh -c 'echo %s > {opened}'")
    with serving(index, "--open") as (address, process):
        assert (index / ".serve.json").exists()
        to = urlsplit(address)
        connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=30)
        query = json.dumps({"parts": [{"image_id": 103}], "k": 2}).encode()  # does not wait for the model to load
        connection.putrequest("POST", "/api/search")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(query)))
        connection.endheaders()
        connection.send(query[:10])
        wait_for_other_requests(address)
        process.send_signal(signal.SIGTERM)
        threading.Event().wait(0.5)
        connection.send(query[10:])
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["results"]) == 2
        connection.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert not (index / ".serve.json").exists()
    assert opened.read_text().strip() == address


def wait_for_the_model(address: str) -> None:
    while not httpx.get(f"{address}/healthz").json()["ready"]["pictures"]:
        threading.Event().wait(0.1)


def wait_for_other_requests(address: str) -> None:
    """Wait for the response to a request: those sent before it have then reached the application."""
    to = urlsplit(address)
    connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=30)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


def leave(address: str, sent: bytes, *, reset: bool, wait: float = 0.0) -> None:
    """Send bytes and close the connection after `wait` seconds, without reading a response."""
    to = urlsplit(address)
    with socket.create_connection((to.hostname or "", to.port or 0)) as connection:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(sent)
        threading.Event().wait(wait)


def post(path: str, kind: str, body: bytes, length: int | None = None, authorization: str = "") -> bytes:
    lines = {"Host": "localhost", "Content-Type": kind, "Content-Length": length or len(body)}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, "Authorization": authorization}.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@pytest.mark.usefixtures("ctrl_c")
def test_clients_that_leave_and_ctrl_c_leave_no_trace(index: Path) -> None:
    with serving(index) as (address, process):
        token = json.loads((index / ".serve.json").read_text())["token"]
        scan = {"method": "scan", "collection": "coco_captions", "arguments": {"vectors": True, "where": None}}
        known = f"Bearer {token}"
        for sent in (
            b"GET / HT",
            b"GET /pictures/101 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"no HTTP at all\r\n\r\n",
            post("/api/pictures", "image/jpeg", bytes(100_000), length=200_000),
            post("/api/pictures", "image/jpeg", bytes(100_000), length=200_000_000),
            post("/api/search", "application/json", b'{"parts": [', length=100),
            post("/api/search", "application/json", b'{"parts": [{"text": "a"}]}'),
            post("/internal/index", "application/json", json.dumps(scan).encode(), authorization=known),
            post("/internal/index", "application/json", b"{", length=10, authorization=known),
        ):
            for reset in (False, True):
                for wait in (0, 0.01):
                    leave(address, sent, reset=reset, wait=wait)
        wait_for_other_requests(address)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert not (index / ".serve.json").exists()


def test_a_port_that_is_taken(call: Call, index: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = one_line_error(call("search", "serve", "--path", index, "--port", port))
    assert f"port {port}" in error
    assert "--port" in error
    assert "no-such-host.invalid" in one_line_error(call("search", "serve", "--host", "no-such-host.invalid"))


def test_an_index_that_does_not_exist(call: Call) -> None:
    error = one_line_error(call("search", "serve", "--path", "nothing", "--port", 0))
    assert "run `python -m ingest run`" in error
    assert not Path("nothing").exists()
