"""Backups of a server, through its snapshots."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from backed_up import MakeSpec, two_data_sets
from conftest import Call, one_line_error
from grpc_qdrant import ANSWERS
from snapshot_qdrant import SnapshotServer

from search.errors import ServerError
from search.index.edge.index import EdgeIndex
from search.index.server.snapshots import Snapshots
from search.settings import load_settings


@pytest.fixture
def filled(tmp_path: Path, make_spec: MakeSpec) -> EdgeIndex:
    return two_data_sets(tmp_path, make_spec)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, filled: EdgeIndex, call: Call) -> Iterator[SnapshotServer]:
    """A server with the same collections."""
    with SnapshotServer().running() as running:
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(running.grpc_port))
        assert call("ingest", "copy", "--from", filled.path, "--to", running.url)[0] == 0
        yield running


def test_a_server_and_back(call: Call, server: SnapshotServer, dataset: str, filled: EdgeIndex) -> None:
    where = ["--url", server.url]
    code, out, _ = call("ingest", "backup", "server.tgz", "--dataset", dataset, *where, "--json")
    assert code == 0
    names = [f"{dataset}_captions", f"{dataset}_images"]
    assert json.loads(out)["points"] == dict.fromkeys(names, 40)
    assert server.snapshots == {}
    calls = [
        (method, path.rpartition("/snapshots")[0], query)
        for method, path, query in server.requests
        if (method, path.rpartition("/")[2]) != ("GET", "snapshots")  # which are there?
    ]
    made, taken, deleted = calls[:2], calls[2:4], calls[4:]
    assert made == [("POST", f"/collections/{name}", {"wait": "true"}) for name in names]
    assert taken == [("GET", f"/collections/{name}", {}) for name in names]
    assert sorted(deleted) == [("DELETE", f"/collections/{name}", {"wait": "true"}) for name in names]
    with tarfile.open("server.tgz") as tar:
        members = tar.getnames()
    assert members == ["manifest.json", *(f"{name}.snapshot" for name in names), "SHA256SUMS"]

    assert "holds 40 points: --force" in one_line_error(call("ingest", "restore", "server.tgz", *where))
    call("ingest", "drop", "--dataset", dataset, "--yes", *where)
    server.requests.clear()
    code, out, _ = call("ingest", "restore", "server.tgz", *where)
    assert code == 0
    assert f"{dataset}_images: 40 points restored into {server.url}" in out
    for (method, path, query), name in zip(server.requests, names, strict=True):
        assert (method, path) == ("POST", f"/collections/{name}/snapshots/upload")
        assert (query["priority"], query["wait"], len(query["checksum"])) == ("snapshot", "true", 64)
    code, out, _ = call("ingest", "copy", "--from", filled.path, "--to", server.url, "--json")
    assert [each["written"] for each in json.loads(out)] == [0, 0, 0]
    assert call("ingest", "restore", "server.tgz", "--force", *where)[0] == 0
    assert not [file for file in Path().iterdir() if file.name.startswith(".server")]


def test_a_server_that_says_no_checksum(call: Call, server: SnapshotServer) -> None:
    server.says_checksum = False  # as with snapshots on S3
    assert call("ingest", "backup", "server.tgz", "--dataset", "other", "--url", server.url)[0] == 0
    assert call("ingest", "restore", "server.tgz", "--force", "--url", server.url)[0] == 0


@pytest.mark.parametrize("knows_ranges", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_backup_waits_for_a_server_that_is_away(
    call: Call, server: SnapshotServer, monkeypatch: pytest.MonkeyPatch, knows_ranges: bool
) -> None:
    monkeypatch.setattr("search.index.retry.FIRST_CONTACT_SECONDS", 10.0)
    where = ["--dataset", "other", "--url", server.url]
    # Every call loses its connection once: before it is carried out, or when the answer is due.
    server.breaks, server.loses_answers = ["GET", "POST", "DELETE"], ["POST", "DELETE"]
    server.sent_once, server.knows_ranges = 5000, knows_ranges
    code, _, err = call("ingest", "backup", "server.tgz", *where)
    assert code == 0, err
    assert "retrying for 60 seconds" in err
    assert server.snapshots == {}  # neither of two was left behind
    assert [method for method, path, _ in server.requests if path.endswith("/snapshots")].count("POST") == 1
    downloads = [path for method, path, _ in server.requests if (method, path[-9:]) == ("GET", ".snapshot")]
    assert len(downloads) > 1
    server.breaks = ["GET", "POST"]
    assert call("ingest", "restore", "server.tgz", "--force", *where)[0] == 0


def test_downloads_that_go_wrong(call: Call, server: SnapshotServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    command = ["ingest", "backup", "server.tgz", "--dataset", "other", "--url", server.url]
    server.damage = b"a dog", b"a cat"
    assert "was damaged in transfer: run the command again" in one_line_error(call(*command))
    server.damage = b"a dog", b"a wolf"
    assert "is longer than the" in one_line_error(call(*command))
    server.damage, server.sent, server.knows_ranges = None, 1000, False
    assert "sent 1,000 of the" in one_line_error(call(*command))
    assert server.snapshots == {}
    assert not list(Path().glob("server.tgz*"))


def test_snapshots_that_cannot_be_deleted_are_named(
    call: Call, server: SnapshotServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.index.retry.RETRY_SECONDS", 0.05)
    server.keeps_snapshots = True
    code, _, err = call("ingest", "backup", "server.tgz", "--dataset", "other", "--url", server.url)
    assert code == 0
    ((_, name),) = server.snapshots
    assert f"warning: the snapshot {name} stays on the server" in err
    assert "the disk is read-only" in err


def test_a_cluster_is_told_to_copy(call: Call, server: SnapshotServer) -> None:
    where = ["--url", server.url]
    server.peers = 1
    assert call("ingest", "backup", "server.tgz", *where)[0] == 0
    server.peers, before = 3, list(server.requests)
    for command in (["backup", "again.tgz"], ["restore", "server.tgz", "--force"]):
        error = one_line_error(call("ingest", *command, *where))
        assert "one of 3 nodes" in error
        assert "python -m ingest copy" in error
    assert server.requests == before


def test_the_servers_key(call: Call, server: SnapshotServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "secret"
    with pytest.raises(ServerError, match="refuses the API key"):
        Snapshots(load_settings(url=server.url)).refuse_cluster()
    monkeypatch.setenv("QDRANT_API_KEY", "secret")
    Snapshots(load_settings(url=server.url)).refuse_cluster()
    assert call("ingest", "backup", "server.tgz", "--url", server.url)[0] == 0


def test_a_server_that_recovers_something_else(call: Call, server: SnapshotServer) -> None:
    assert call("ingest", "backup", "server.tgz", "--url", server.url)[0] == 0
    server.loses_points = True
    error = one_line_error(call("ingest", "restore", "server.tgz", "--force", "--url", server.url))
    assert "has 39 points, but 40 were backed up" in error


def test_kinds_and_versions(
    call: Call, server: SnapshotServer, filled: EdgeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("ingest", "backup", "server.tgz", "--url", server.url)[0] == 0
    assert call("ingest", "backup", "embedded.tgz", "--path", filled.path)[0] == 0
    for file, place in (("server.tgz", ["--path", "new"]), ("embedded.tgz", ["--url", server.url])):
        assert "ingest copy --from" in one_line_error(call("ingest", "restore", file, *place))
    monkeypatch.setitem(ANSWERS, "/", {"title": "qdrant", "version": "1.21.0"})
    code, _, err = call("ingest", "restore", "server.tgz", "--force", "--url", server.url)
    assert code == 0
    assert "warning: server.tgz was made by qdrant 1.19.0, this is qdrant 1.21.0" in err
