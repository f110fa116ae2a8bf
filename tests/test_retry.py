"""What happens when a Qdrant server fails in the middle: dropped connections, overload, a full disk, other clients."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import Call, ingest_options, one_line_error
from grpc_qdrant import Fault, LocalClient, StandIn, rest_server
from hypothesis import given
from hypothesis import strategies as st
from points import image, unit
from qdrant_client import models
from qdrant_client.grpc import ReplicaState
from qdrant_client.http.exceptions import UnexpectedResponse

from search.errors import CollectionMissing, ServerError
from search.index import CollectionSpec, Points, retry
from search.index.server import upload
from search.index.server.connection import Connection, check_versions
from search.index.server.failures import translate_errors
from search.index.server.index import ServerIndex, connect
from search.settings import Settings

CODE = grpc.StatusCode
AWAY = [Fault("Upsert", CODE.UNAVAILABLE, "Socket closed") for _ in range(1000)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.index.retry.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("search.index.retry.LONGEST_PAUSE", 0.01)
    monkeypatch.setattr("search.index.server.indexing.PAUSE", 0.001)


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn()
    yield stand_in
    stand_in.stop()


@pytest.fixture
def place(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    with rest_server() as port:
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(server.port))
        yield ["--url", f"http://127.0.0.1:{port}"]


@pytest.fixture
def run(call: Call, photo_set: Path, clip_folder: Path, place: list[str]) -> Callable[[], tuple[int, str, str]]:
    """`python -m ingest run` of 12 photos in three batches, and their 60 captions."""
    return lambda: call("ingest", *ingest_options(photo_set, clip_folder, place), "--batch-size", 4)


def stored(server: StandIn) -> dict[str, int]:
    kinds = ("images", "captions")
    return {
        kind: server.local.count(f"coco_{kind}").count
        for kind in kinds
        if server.local.collection_exists(f"coco_{kind}")
    }


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        (CODE.UNAVAILABLE, "Socket closed"),
        (CODE.UNAVAILABLE, "Shard temporarily unavailable: shard 1 is being recovered"),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (CODE.RESOURCE_EXHAUSTED, "Rate limiting exceeded: Write rate limit exceeded"),
        (CODE.INTERNAL, "Service internal error: 1 of 1 read operations failed"),
        (CODE.INTERNAL, "The replica set for shard 2 on peer 1 does not have enough active replicas"),
    ],
)
def test_transient_failures_are_retried(
    server: StandIn, run: Callable[[], tuple[int, str, str]], code: grpc.StatusCode, detail: str
) -> None:
    methods = ("Upsert", "Get", "Count", "CreateFieldIndex")
    server.faults.waiting = [Fault(method, code, detail) for method in methods for _ in range(2)]
    exit_code, out, err = run()
    assert exit_code == 0, err
    assert "coco_images: 12 points (12 embedded now" in out
    assert "coco_captions: 60 points (60 embedded now" in out
    assert len([line for line in err.splitlines() if "retrying" in line]) == 1  # per outage, not per attempt
    assert server.faults.waiting == []


@pytest.mark.parametrize("method", ["Create", "Upsert", "Update"])
def test_a_connection_may_drop_after_the_request_was_carried_out(
    server: StandIn, run: Callable[[], tuple[int, str, str]], method: str
) -> None:
    server.faults.waiting = [Fault(method, CODE.UNAVAILABLE, "Connection reset by peer", carried_out=True)]
    assert run()[0] == 0
    assert run()[0] == 0  # updates the specifications
    assert server.faults.waiting == []
    assert stored(server) == {"images": 12, "captions": 60}


def test_an_unavailable_server_ends_the_run_and_the_next_run_resumes(
    server: StandIn, run: Callable[[], tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    server.faults.waiting = [Fault("Upsert"), *AWAY]
    assert "no Qdrant server answers" in one_line_error(run())
    assert stored(server) == {"images": 4, "captions": 0}
    server.faults.waiting = []
    exit_code, out, _ = run()
    assert exit_code == 0
    assert "coco_images: 12 points (8 embedded now, 4 were there already)" in out


@pytest.mark.parametrize(
    ("code", "detail", "words"),
    [
        (CODE.INVALID_ARGUMENT, "Wrong input: Vector dimension error", "INVALID_ARGUMENT: Wrong input"),
        (
            CODE.INTERNAL,
            "Service internal error: No space left on device: WAL buffer size exceeds available disk space",
            "is full .*free some space there, then run the same command again",
        ),
        (CODE.PERMISSION_DENIED, "Forbidden", "a read-only key can search but not write"),
    ],
)
def test_permanent_failures_are_not_retried(
    server: StandIn, run: Callable[[], tuple[int, str, str]], code: grpc.StatusCode, detail: str, words: str
) -> None:
    server.faults.waiting = [Fault("Upsert"), Fault("Upsert", code, detail)]
    result = run()
    line = one_line_error(result)
    assert re.search(words, line), line
    assert "retrying" not in result[2]
    written = stored(server)["images"]
    assert server.faults.calls["Upsert"] <= 3  # three batches of photos, each sent once
    exit_code, out, _ = run()
    assert exit_code == 0
    assert f"coco_images: 12 points ({12 - written} embedded now, {written} were there already)" in out


def test_the_collection_vanishes(server: StandIn, run: Callable[[], tuple[int, str, str]]) -> None:
    drop = Fault("Upsert", act=lambda: server.local.delete_collection("coco_images"))
    server.faults.waiting = [Fault("Upsert"), drop]
    assert "no collection coco_images" in one_line_error(run())
    assert run()[0] == 0
    assert stored(server) == {"images": 12, "captions": 60}


def test_another_client_deletes_points_during_a_run(server: StandIn, run: Callable[[], tuple[int, str, str]]) -> None:
    delete = Fault("Count", act=lambda: server.local.delete("coco_images", [100, 101]))
    server.faults.waiting = [delete]
    line = one_line_error(run())
    assert "holds 6 of the 8 points of split test" in line
    assert "Run the same command again" in line
    exit_code, out, _ = run()
    assert exit_code == 0
    assert "coco_images: 12 points (2 embedded now, 10 were there already)" in out


def test_indexing_deferred_by_a_killed_run_is_done_by_the_next_one(
    server: StandIn,
    run: Callable[[], tuple[int, str, str]],
    call: Call,
    place: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told() -> dict[str, Any]:
        listed = json.loads(call("ingest", "status", "--json", *place)[1])
        [found] = [info for info in listed if info["collection"] == "coco_images"]
        return {"threshold": found["settings"]["indexing_threshold"], "pending": found["pending"]}

    assert run()[0] == 0  # too few points to defer indexing
    before = told()
    assert before["threshold"] > 0
    assert before["pending"] is None
    server.local.delete_collection("coco_captions")
    server.local.delete_collection("coco_images")

    monkeypatch.setattr("search.index.protocol.DEFER_INDEXING_FROM", 10)
    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    server.faults.waiting = [Fault("Upsert"), *AWAY]
    one_line_error(run())
    server.faults.waiting = []
    assert told()["threshold"] == 0
    assert "deferred while it is filled" in told()["pending"]
    assert "pending          the index of coco_images" in call("ingest", "status", *place)[1]
    code, _, err = call("search", "text", "a photo", *place)
    assert code == 0
    assert err.count("warning: the index of coco_images is deferred") == 1
    assert "warning" not in call("search", "text", "a photo", "--exact", *place)[2]
    assert "warning: the index of coco_images" in call("eval", "run", "--allow-missing", *place)[2]

    assert run()[0] == 0
    assert told() == before


def test_reading_continues_when_the_server_returns(server: StandIn, make_spec: Callable[..., CollectionSpec]) -> None:
    with rest_server() as port:
        index = connect(Settings(qdrant_url=f"http://127.0.0.1:{port}", qdrant_grpc_port=server.port))
    spec = make_spec()
    index.create(spec)
    index.upsert(spec.collection, Points([image(number) for number in range(5)], unit(5)))
    server.stop()
    back = threading.Timer(0.5, server.start)
    back.start()
    assert index.count(spec.collection) == 5
    back.join()
    assert [record.id for batch in index.scan(spec.collection) for record in batch.records] == [0, 1, 2, 3, 4]
    index.close()


def test_another_node_is_used_when_one_dies(
    server: StandIn, make_spec: Callable[..., CollectionSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    other = StandIn(server)
    with rest_server(port=other.port - 1) as second:
        with rest_server(port=server.port - 1) as first:
            urls = [f"http://127.0.0.1:{port}" for port in (first, second)]
            index = connect(Settings(qdrant_url=",".join(urls)))
            assert index.place == urls[0]
            spec = make_spec()
            index.create(spec)
            server.stop()
        index.upsert(spec.collection, Points([image(1)], unit(1)))
        assert index.count(spec.collection) == 1
        assert index.place == urls[1]
        assert f"{urls[0]} does not answer; continuing with {urls[1]}" in capsys.readouterr().err
        index.close()
        # The first node is unavailable from the start.
        index = connect(Settings(qdrant_url=",".join(urls)))
        assert index.place == urls[1]
        index.close()
    other.stop()


def test_a_read_only_key_is_enough_for_status_search_and_evaluation(
    server: StandIn, run: Callable[[], tuple[int, str, str]], call: Call, place: list[str]
) -> None:
    assert run()[0] == 0
    server.faults.read_only = True
    for command in (("ingest", "status"), ("search", "text", "a photo"), ("eval", "run", "--resamples", "100")):
        code, out, err = call(*command, *place)
        assert code == 0, err
        assert out
    assert "a read-only key can search but not write" in one_line_error(run())
    server.faults.calls.clear()
    for copies in (("--ef", "32"), ("--quantization", "int8")):
        refusal = one_line_error(call("eval", "run", *copies, *place))
        assert "a read-only key can search but not write" in refusal
    assert server.faults.calls["QueryBatch"] == 0  # it fails before any query


def test_copies_that_are_not_in_use_are_reported(
    server: StandIn, run: Callable[[], tuple[int, str, str]], call: Call, place: list[str]
) -> None:
    assert run()[0] == 0
    assert "copies           1 of each shard" in call("ingest", "status", *place)[1]
    for made in server.collections.made.values():
        made.replication_factor = 2
    server.collections.copies = [ReplicaState.Dead]
    _, out, _ = call("ingest", "status", *place)
    assert "copies           1 of 1 shards have fewer than 2" in out
    assert "pending          1 of 1 shards of coco_images have fewer copies in use than the replication factor 2" in out
    assert json.loads(call("ingest", "status", "--json", *place)[1])[0]["shards_short_of_copies"] == 1
    for command in (("search", "text", "a photo"), ("eval", "run", "--resamples", "100")):
        assert "warning: 1 of 1 shards of coco_captions have fewer copies" in call(*command, *place)[2]
    server.collections.copies = [ReplicaState.Active]
    assert "copies           2 of each shard" in call("ingest", "status", *place)[1]


class Unhurried(LocalClient):
    """Answers that some writes are in the log but not applied."""

    def __init__(self, waits: int) -> None:
        super().__init__(":memory:")
        self.waits = waits

    def upsert(self, *args: Any, **kwargs: Any) -> models.UpdateResult:
        done = super().upsert(*args, **kwargs)
        self.waits -= 1
        return models.UpdateResult(status=models.UpdateStatus.WAIT_TIMEOUT) if self.waits >= 0 else done


def test_a_write_counts_once_it_is_applied(
    make_spec: Callable[..., CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Unhurried(2)
    index = ServerIndex(Connection(client, "http://unhurried", "test"))
    spec = make_spec()
    index.create(spec)
    index.upsert(spec.collection, Points([image(1)], unit(1)))
    assert client.waits == -1
    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    client.waits = 1000
    with pytest.raises(ServerError, match="has not applied a write in time"):
        index.upsert(spec.collection, Points([image(1)], unit(1)))


def test_four_requests_run_in_parallel(
    make_spec: Callable[..., CollectionSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(4, timeout=20)

    class Meeting(LocalClient):
        def upsert(self, *_: Any, **__: Any) -> models.UpdateResult:
            together.wait()  # breaks unless four are here
            return models.UpdateResult(status=models.UpdateStatus.COMPLETED)

    monkeypatch.setattr(upload, "POINTS_PER_REQUEST", 2)
    index = ServerIndex(Connection(Meeting(":memory:"), "http://meeting", "test", streams=upload.STREAMS))
    spec = make_spec()
    index.create(spec)
    index.upsert(spec.collection, Points([image(number) for number in range(8)], unit(8)))
    assert together.n_waiting == 0
    index.close()


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 10), st.integers(200, 4000))
def test_requests_are_bounded_and_leave_nothing_out(lengths: list[int], points: int, size: int) -> None:
    records = [image(number, captions=("x" * length,)) for number, length in enumerate(lengths)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upload, "POINTS_PER_REQUEST", points)
        patch.setattr(upload, "BYTES_PER_REQUEST", size)
        batches = list(upload.requests(Points(records, unit(len(records), dim=8)), width=4))
    assert [each for batch in batches for each in batch.ids] == list(range(len(records)))
    for batch in batches:
        assert 1 <= len(batch.ids) <= points
        weights = [8 * 4 + len(str(payload)) for payload in batch.payloads or ()]
        assert len(weights) == 1 or sum(weights) <= size


def test_pauses_grow_vary_and_are_as_long_as_the_server_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 4.0)
    pauses: list[float] = []
    monkeypatch.setattr("search.index.retry.time.sleep", pauses.append)
    failures = iter([ServerError("away", transient=True)] * 5 + [ServerError("busy", transient=True, retry_after=9.0)])

    def attempt() -> str:
        for error in failures:
            raise error
        return "done"

    assert retry.while_unavailable(attempt, lambda *_: None) == "done"
    for pause, longest in zip(pauses, (1, 2, 4, 4, 4), strict=False):
        assert longest / 2 <= pause <= longest
    assert len({*pauses[2:5]}) == 3
    assert pauses[5] == 9.0


@pytest.mark.parametrize(
    ("status", "body", "words", "transient"),
    [
        (429, "too many requests", "failed with 429", True),
        (503, "starting", "failed with 503", True),
        (500, "Service internal error: No space left on device", "disk .* is full", False),
        (400, "Wrong input", "failed with 400: Wrong input", False),
        (403, "Forbidden", "a read-only key can search but not write", False),
    ],
)
def test_errors_over_rest(status: int, body: str, words: str, transient: bool) -> None:
    with pytest.raises(ServerError, match=words) as refusal, translate_errors("http://rest", "coco_images"):
        raise UnexpectedResponse(status, "reason", body.encode(), None)  # type: ignore[arg-type]
    assert refusal.value.transient is transient


def test_a_collection_that_is_missing_over_rest() -> None:
    with pytest.raises(CollectionMissing), translate_errors("http://rest", "coco_images"):
        raise UnexpectedResponse(404, "Not Found", b"Collection `coco_images` doesn't exist!", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "warned"), [("1.18.3", False), ("1.20.0-dev", False), ("dev", False), ("1.21.0", True)]
)
def test_versions_that_are_too_far_apart(server: str, warned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    check_versions("http://x", server)
    assert ("more than one minor version apart" in capsys.readouterr().err) is warned


def test_a_server_that_is_too_old() -> None:
    with pytest.raises(ServerError, match=r"1\.16 or newer is required"):
        check_versions("http://x", "1.15.9")
