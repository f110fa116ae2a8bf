"""A cluster that has lost a node: which nodes answer, and how many copies of the shards that leaves."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from conftest import Call
from grpc_qdrant import Fault, StandIn, rest_server
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import models
from qdrant_client.grpc import ReplicaState

from search.index import CollectionSpec
from search.index.server.cluster import missing_peers, shards_short_of_copies, silent_peers
from search.index.server.index import connect
from search.settings import Settings

A, B, C = 1417374353427873, 2845619738284651, 5395257186314509
URIS = {A: "http://node-1:6335/", B: "http://node-2:6335/", C: "http://node-3:6335/"}


def view(own: int, peers: tuple[int, ...] = (A, B, C), undelivered: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the `result` of `GET /cluster`, in the format of Qdrant 1.19."""
    error = {"count": 12, "latest_error": "Error in closure supplied to transport channel pool"}
    result = {
        "status": "enabled",
        "peer_id": own,
        "peers": {str(peer): {"uri": URIS[peer]} for peer in peers},
        "raft_info": {
            "term": 3, "commit": 84, "pending_operations": 0, "leader": A,
            "role": "Leader" if own == A else "Follower", "is_voter": True,
        },
        "consensus_thread_status": {"consensus_thread_status": "working", "last_update": "2026-01-01T00:00:00Z"},
        "message_send_failures": {URIS[peer]: error for peer in undelivered},
    }  # fmt: skip
    models.ClusterStatusOneOf1.model_validate(result)
    return result


def telemetry(responsive: tuple[int, ...]) -> dict[str, Any]:
    """Return the `result` of `GET /cluster/telemetry`."""
    peers = {str(peer): {"uri": uri, "responsive": peer in responsive} for peer, uri in URIS.items()}
    result = {"collections": {}, "cluster": {"enabled": True, "number_of_peers": 3, "peers": peers}}
    models.DistributedTelemetryData.model_validate(result)
    return result


def placement(shards: dict[int, dict[int, str]], count: int | None = None) -> models.CollectionClusterInfo:
    """Return the `result` of `GET /collections/NAME/cluster` on node A; `shards` are states by shard and peer."""
    local = [(shard, copies[A]) for shard, copies in shards.items() if A in copies]
    remote = [(shard, peer, state) for shard, copies in shards.items() for peer, state in copies.items() if peer != A]
    return models.CollectionClusterInfo.model_validate(
        {
            "peer_id": A,
            "shard_count": len(shards) if count is None else count,
            "local_shards": [{"shard_id": shard, "points_count": 7, "state": state} for shard, state in local],
            "remote_shards": [{"shard_id": shard, "peer_id": peer, "state": state} for shard, peer, state in remote],
            "shard_transfers": [],
        }
    )


ACTIVE = "Active"
WHOLE = {0: {A: ACTIVE, B: ACTIVE}, 1: {B: ACTIVE, C: ACTIVE}, 2: {C: ACTIVE, A: ACTIVE}}


@pytest.mark.parametrize(
    ("shards", "away", "short"),
    [
        (WHOLE, set(), 0),
        (WHOLE, {B}, 2),  # killed: its copies are still listed as Active
        ({0: {A: ACTIVE}, 1: {C: ACTIVE}, 2: {C: ACTIVE, A: ACTIVE}}, set(), 2),  # after DELETE /cluster/peer/B
        ({**WHOLE, 0: {A: ACTIVE, B: "Dead"}}, set(), 1),
        ({**WHOLE, 0: {A: ACTIVE, B: "Dead"}}, {B}, 2),  # a missing copy counts once
        ({**WHOLE, 0: {A: ACTIVE, B: "Partial"}, 1: {B: ACTIVE, C: "Recovery"}}, set(), 2),
        ({**WHOLE, 0: {A: ACTIVE, B: ACTIVE, C: "Initializing"}}, set(), 0),  # a third copy is being made
        ({**WHOLE, 0: {A: ACTIVE, B: "Listener"}, 1: {B: ACTIVE, C: "ActiveRead"}}, set(), 0),
    ],
)
def test_shards_short_of_copies(shards: dict[int, dict[int, str]], away: set[int], short: int) -> None:
    assert shards_short_of_copies(placement(shards), 2, away) == short


def test_a_shard_without_any_copy_is_short_of_copies() -> None:
    assert shards_short_of_copies(placement({0: {A: ACTIVE}, 2: {A: ACTIVE}}, count=3), 1, set()) == 1


@given(
    st.lists(st.sets(st.sampled_from((A, B, C)), min_size=1), min_size=1, max_size=8),
    st.integers(1, 3),
    st.sets(st.sampled_from((A, B, C))),
)
def test_shards_are_counted_once(holders: list[set[int]], factor: int, away: set[int]) -> None:
    shards = {number: dict.fromkeys(copies, ACTIVE) for number, copies in enumerate(holders)}
    short = shards_short_of_copies(placement(shards), factor, away)
    assert short == len([copies for copies in holders if len(copies - away) < factor])
    assert short >= shards_short_of_copies(placement(shards), factor, set())


def test_peers_that_do_not_answer() -> None:
    views = [view(A, undelivered=(B,)), view(C)]
    assert missing_peers(views[0], views) == {B}
    assert missing_peers(view(A), [view(A), view(B), view(C)]) == frozenset()
    assert missing_peers(view(A, peers=(A, C)), views) == frozenset()  # B was removed
    # QDRANT_URL names only A: its telemetry lists the other nodes that answer.
    alone = frozenset({B, C})
    assert silent_peers(alone, view(A), [view(A)], telemetry((A, C))) == {B}
    assert silent_peers(alone, view(A), [view(A)], telemetry((A, B, C))) == frozenset()
    # Without telemetry, undelivered messages are used.
    nothings: list[dict[str, Any] | None] = [None, {}, {"collections": {}, "cluster": None}]
    for nothing in nothings:
        assert silent_peers(alone, view(A), [view(A, undelivered=(C,))], nothing) == {C}


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # and does not listen: no other process gets the port
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def answers(own: int, responsive: tuple[int, ...] = (A, B, C)) -> dict[str, Any]:
    return {
        "/cluster": {"result": view(own), "status": "ok", "time": 0.0},
        "/cluster/telemetry?timeout=1": {"result": telemetry(responsive), "status": "ok", "time": 0.0},
    }


@pytest.mark.parametrize("dead", ["refuses", "hangs"])
def test_a_killed_node_is_reported(
    call: Call,
    make_spec: Callable[..., CollectionSpec],
    monkeypatch: pytest.MonkeyPatch,
    closed_port: int,
    dead: str,
) -> None:
    server = StandIn()
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(server.port))
    monkeypatch.setattr("search.index.server.failures.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("search.index.server.connection.CONNECT_SECONDS", 0.2)
    monkeypatch.setattr("search.index.server.cluster.ANSWER_SECONDS", 0.2)
    with ExitStack() as running:
        ports = [running.enter_context(rest_server(answers=answers(peer, (A, C)))) for peer in (A, C)]
        port = closed_port
        if dead == "hangs":  # accepts, but sends nothing
            listener = running.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = int(listener.getsockname()[1])
        urls = [f"http://127.0.0.1:{each}" for each in (*ports, port)]
        monkeypatch.setenv("QDRANT_URL", ",".join(urls))
        index = connect(Settings())
        spec = make_spec()
        index.create(spec)
        for made in server.collections.made.values():
            made.replication_factor, made.shard_number = 2, 1
        server.collections.copies = [ReplicaState.Active]  # on peer 2, in the numbering of the stand-in
        start = time.monotonic()
        assert index.silent_nodes() == [urls[2]]
        assert index.pending(spec.collection) is None  # the copies are on other nodes
        assert time.monotonic() - start < 3
        index.close()

        code, out, err = call("ingest", "status", "--json")
        assert code == 0
        assert json.loads(out)[0]["silent_nodes"] == [urls[2]]
        assert err.count(f"warning: the node at {urls[2]} does not answer") == 1
        assert f"does not answer: {urls[2]}" in call("ingest", "status")[1]
    server.stop()


def test_a_node_that_hangs_is_skipped(
    make_spec: Callable[..., CollectionSpec], capsys: pytest.CaptureFixture[str]
) -> None:
    server, spec = StandIn(), make_spec()
    with (
        socket.create_server(("127.0.0.1", 0)) as hanging,
        rest_server() as port,
    ):  # accepts, but sends nothing
        urls = [f"http://127.0.0.1:{each}" for each in (hanging.getsockname()[1], port)]
        start = time.monotonic()
        index = connect(Settings(qdrant_url=",".join(urls), qdrant_grpc_port=server.port))
        assert time.monotonic() - start < 5
        assert index.place.startswith(urls[1])
        index.create(spec)
        index._connection.url = urls[0]  # as if connected to this node, which now hangs
        server.faults.waiting = [Fault("Count", grpc.StatusCode.DEADLINE_EXCEEDED)]
        assert index.count(spec.collection) == 0
        assert time.monotonic() - start < 10
        assert f"note: {urls[0]} does not answer; continuing with {urls[1]}" in capsys.readouterr().err
        index.close()
    server.stop()


def test_silent_nodes_are_reported_before_requests_that_need_them(
    call: Call, make_spec: Callable[..., CollectionSpec], monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    server = StandIn()
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(server.port))
    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    away = f"http://127.0.0.1:{closed_port}"
    with rest_server() as port:
        monkeypatch.setenv("QDRANT_URL", f"http://127.0.0.1:{port},{away}")
        index = connect(Settings())
        index.create(make_spec())
        index.close()
        lost = Fault("Get", grpc.StatusCode.INTERNAL, "1 of 1 read operations failed")
        server.faults.waiting = [lost] * 1000
        code, out, err = call("ingest", "status")
        assert (code, f"does not answer: {away}" in out) == (1, True), err
        for command in (["ingest", "status", "--json"], ["search", "text", "snow", "--exact"], ["eval", "run"]):
            code, _, err = call(*command)
            assert code == 1
            told, failed = err.find(f"warning: the node at {away} does not answer"), err.find("error: ")
            assert 0 <= told < failed, (command, err)
    server.stop()


def test_the_copies_of_a_killed_node_count_as_missing(
    make_spec: Callable[..., CollectionSpec], closed_port: int
) -> None:
    server = StandIn()  # its own id is peer 1; the first remote copy is on peer 2
    peers = {str(peer): {"uri": f"http://node-{peer}:6335/"} for peer in (1, 2, 3)}
    cluster = {**view(A), "peer_id": 1, "peers": peers}
    told = {"cluster": {"peers": {peer: {**info, "responsive": peer != "2"} for peer, info in peers.items()}}}
    with rest_server(
        answers={"/cluster": {"result": cluster}, "/cluster/telemetry?timeout=1": {"result": told}}
    ) as port:
        url = f"http://127.0.0.1:{port},http://127.0.0.1:{closed_port}"
        index = connect(Settings(qdrant_url=url, qdrant_grpc_port=server.port))
        spec = make_spec()
        index.create(spec)
        server.collections.made[spec.collection].replication_factor = 2
        server.collections.copies = [ReplicaState.Active]
        assert "1 of 1 shards" in (index.pending(spec.collection) or "")
        assert "1 of 1 shards" in (index.pending(spec.collection, exact=True) or "")
        assert index.info(spec.collection).shards_short_of_copies == 1
        index.close()
    server.stop()
