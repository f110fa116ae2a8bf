"""docs/replace-node.sh, against a cluster that keeps account of what it is told, and of what it would have lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPT = Path(__file__).resolve().parents[1] / "docs/replace-node.sh"
TOOLS = ("bash", "curl", "jq")
pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")

TIMED_OUT = "Service internal error: Waiting for consensus operation commit failed. Timeout set at: 10 seconds"
ONE, TWO, THREE, NEW = 1417374353427873, 2845619738284651, 5395257186314509, 7719283746501923


class Cluster:
    """Three nodes, of which node-2 is lost; `shards` are states by collection, shard and peer, as node-1 knows them."""

    def __init__(self) -> None:
        self.peers = {ONE: "http://node-1:6335/", TWO: "http://node-2:6335/", THREE: "http://node-3:6335/"}
        self.responsive = {ONE, THREE}
        self.factor = 2
        self.shards: dict[str, dict[int, dict[int, str]]] = {
            name: {
                0: {ONE: "Active", TWO: "Active"},
                1: {TWO: "Active", THREE: "Active"},
                2: {THREE: "Active", ONE: "Active"},
            }
            for name in ("coco_images", "coco_captions")
        }
        # How removals end: "times out", "times out late" (removed all the same), "forbidden", "done".
        self.removal: list[str] = []
        self.refused_copies = 1
        self.refused: list[str] = []  # paths that a read-only key was refused
        self.log: list[str] = []
        self.key: str | None = None
        self.read_only_key: str | None = "may only read"

    def remove(self, peer: int) -> tuple[int, Any]:
        self.log.append("remove")
        how = self.removal.pop(0) if self.removal else "done"
        if how == "forbidden":
            return 403, "Forbidden: Global manage access is required"
        if how != "times out":
            self.peers.pop(peer, None)
            for shards in self.shards.values():
                for copies in shards.values():
                    copies.pop(peer, None)
        return (200, True) if how == "done" else (500, TIMED_OUT)

    def start(self, command: str) -> None:
        self.log.append(command)
        if "up" in command.split() and TWO not in self.peers:  # else: "already used by peer ... which still has shards"
            self.peers[NEW] = "http://node-2:6335/"
            self.responsive.add(NEW)

    def replicate(self, collection: str, asked: dict[str, int]) -> tuple[int, Any]:
        if self.refused_copies:
            self.refused_copies -= 1
            return 500, TIMED_OUT
        copies = self.shards[collection][asked["shard_id"]]
        assert copies[asked["from_peer_id"]] == "Active"
        assert asked["to_peer_id"] in self.peers
        assert asked["to_peer_id"] not in copies
        copies[asked["to_peer_id"]] = "Partial"
        return 200, True

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        match method, path.partition("?")[0].strip("/").split("/"):
            case "GET", ["cluster"]:
                peers = {str(peer): {"uri": uri} for peer, uri in self.peers.items()}
                return 200, {"status": "enabled", "peer_id": ONE, "peers": peers}
            case "GET", ["cluster", "telemetry"]:
                told = {str(p): {"uri": uri, "responsive": p in self.responsive} for p, uri in self.peers.items()}
                return 200, {"collections": {}, "cluster": {"enabled": True, "peers": told}}
            case "DELETE", ["cluster", "peer", peer]:
                assert path.endswith("?force=true")
                return self.remove(int(peer))
            case "GET", ["collections"]:
                return 200, {"collections": [{"name": name} for name in self.shards]}
            case "GET", ["collections", name]:
                for copies in self.shards[name].values():  # it asks every shard
                    if not any(copies[peer] == "Active" for peer in copies.keys() & self.responsive):
                        return 500, "Service internal error: no active replica of this shard answers"
                return 200, {"config": {"params": {"replication_factor": self.factor}}}
            case "GET", ["collections", name, "cluster"]:
                return 200, self.placement(name)
            case "POST", ["collections", name, "cluster"] if name not in self.shards:
                return 404, f"Not found: Collection `{name}` doesn't exist!"
            case "POST", ["collections", name, "cluster"]:
                return self.replicate(name, body["replicate_shard"])
            case "POST", ["run"]:
                self.start(body["command"])
                return 200, True
        raise AssertionError(f"{method} {path}")

    def placement(self, name: str) -> dict[str, Any]:
        local, remote = [], []
        for shard, copies in self.shards[name].items():
            for peer, state in list(copies.items()):
                if peer == ONE:
                    local.append({"shard_id": shard, "points_count": 7, "state": state})
                else:
                    remote.append({"shard_id": shard, "peer_id": peer, "state": state})
                if state == "Partial":  # the next look finds the transfer done
                    copies[peer] = "Active"
        return {"peer_id": ONE, "shard_count": 3, "local_shards": local, "remote_shards": remote, "shard_transfers": []}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            key = self.headers.get("api-key")
            if self.path != "/run" and key not in (cluster.key, cluster.read_only_key):
                status, result = 401, "Must provide an API key"
            elif self.path != "/run" and key == cluster.read_only_key and self.command != "GET":
                cluster.refused.append(self.path)
                status, result = 403, "Forbidden: Global manage access is required"
            else:
                status, result = cluster.answer(self.command, self.path, json.loads(body or "null"))
            answer = {"result": result, "status": "ok"} if status == 200 else {"status": {"error": result}}
            content = json.dumps({**answer, "time": 0.0}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def replace_node(url: str, tmp_path: Path) -> Any:
    """Run the script with `docker` and `docker-compose` that tell the cluster what they are called with."""
    tell = f"""#!/bin/sh
curl -s {url}/run --data "{{\\"command\\": \\"$(basename "$0") $*\\"}}" > /dev/null
for file in "$@"; do case "$file" in /*) cp "$file" joining.yml;; esac; done
"""
    shutil.copy(SCRIPT.parents[1] / "docker-compose.yml", tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"docker": tell, "docker-compose": tell, "sleep": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = {"PATH": f"{programs}:{os.environ['PATH']}", "COMPOSE": "docker-compose"}
        return subprocess.run(
            [SCRIPT, *arguments], env={**path, **environment}, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.mark.parametrize("removal", [["times out"] * 2, pytest.param(["times out late"], marks=pytest.mark.slow)])
def test_a_lost_node_is_replaced(cluster: Cluster, url: str, replace_node: Any, removal: list[str]) -> None:
    cluster.removal = removal
    cluster.key = "secret"
    done = replace_node("node-2", url, QDRANT_API_KEY="secret")
    assert done.returncode == 0, done.stderr
    assert "every shard has all of its copies" in done.stderr
    states = [set(copies.values()) for shards in cluster.shards.values() for copies in shards.values()]
    assert states == [{"Active"}] * 6
    holders = [set(copies) for copies in cluster.shards["coco_images"].values()]
    assert holders == [{ONE, NEW}, {THREE, NEW}, {THREE, ONE}]
    assert cluster.factor == 2

    words = [line.split() for line in cluster.log]
    assert words[0] == ["docker-compose", "rm", "-sf", "node-2"]
    removed = max(place for place, line in enumerate(cluster.log) if line == "remove")
    volumes = [place for place, line in enumerate(words) if line[:3] == ["docker", "volume", "rm"]]
    assert [words[place][3] for place in volumes] == ["coco-search_node-2", "coco-search_node-2-snapshots"]
    assert 0 < removed < min(volumes)  # the volume goes when the removal is confirmed, not before
    assert words[-1][-4:] == ["up", "-d", "--no-deps", "node-2"]
    joining = Path("joining.yml").read_text()
    assert '"--bootstrap", "http://node-1:6335", "--uri", "http://node-2:6335"' in joining
    assert yaml.safe_load(joining).keys() == {"services"}


def test_a_node_that_answers_is_not_removed(cluster: Cluster, url: str, replace_node: Any) -> None:
    cluster.responsive.add(TWO)
    del cluster.shards["coco_images"][0][TWO]  # an earlier run was stopped while it copied
    done = replace_node("node-2", url)
    assert done.returncode == 0, done.stderr
    assert "node-2 answers the other nodes and is kept" in done.stderr
    assert cluster.log == []
    assert cluster.shards["coco_images"][0] == {ONE: "Active", TWO: "Active"}


def test_the_only_copy_is_not_given_up(cluster: Cluster, url: str, replace_node: Any) -> None:
    cluster.shards["coco_captions"][1] = {TWO: "Active", THREE: "Dead"}
    done = replace_node("node-2", url)
    assert done.returncode == 1
    assert "node-2 has the only copy of coco_captions/1" in done.stderr
    assert cluster.log == []


@pytest.mark.parametrize("others", [{THREE: "Dead"}, pytest.param({}, marks=pytest.mark.slow)])
def test_a_collection_that_has_lost_a_shard_is_named(
    cluster: Cluster, url: str, replace_node: Any, others: dict[int, str]
) -> None:
    cluster.shards["coco_captions"][1] = {TWO: "Active", **others}
    done = replace_node("node-2", url, FORCE="1")
    assert done.returncode == 1
    assert cluster.shards["coco_captions"][1] == others
    assert f"coco_captions has lost a shard: `curl -X DELETE {url}/collections/coco_captions`" in done.stderr
    assert "coco_images has lost" not in done.stderr
    assert "every shard has all of its copies" not in done.stderr
    holders = [set(copies) for copies in cluster.shards["coco_images"].values()]  # what can be copied is
    assert holders == [{ONE, NEW}, {THREE, NEW}, {THREE, ONE}]


def test_a_node_that_was_removed_already_is_started(cluster: Cluster, url: str, replace_node: Any) -> None:
    cluster.remove(TWO)
    cluster.log.clear()  # the earlier run was stopped before it deleted the volumes
    done = replace_node("node-2", url)
    assert done.returncode == 0, done.stderr
    assert "remove" not in cluster.log
    assert "docker volume rm coco-search_node-2" in cluster.log
    assert set(cluster.shards["coco_images"][0]) == {ONE, NEW}


@pytest.mark.parametrize("name", ["qdrant", "node-4", "node-3"])
def test_a_service_that_is_no_node_of_the_cluster_is_left_alone(
    cluster: Cluster, url: str, replace_node: Any, tmp_path: Path, name: str
) -> None:
    cluster.peers[THREE] = "http://photos:6335/"  # node-3, alive, under an address of the user's own
    file = tmp_path / "docker-compose.yml"
    file.write_text(file.read_text().replace('"http://node-3:6335"', '"http://photos:6335"'))
    done = replace_node(name, url)
    assert done.returncode == 1
    assert f"the cluster does not know {name}, nor does docker-compose.yml start it" in done.stderr
    assert cluster.log == []


def test_a_read_only_key_is_refused_before_anything_is_changed(cluster: Cluster, url: str, replace_node: Any) -> None:
    cluster.key = "secret"
    done = replace_node("node-2", url, QDRANT_API_KEY="may only read")
    assert done.returncode == 1
    assert "the key in QDRANT_API_KEY may not change the cluster" in done.stderr
    assert cluster.refused == ["/collections/replace-node-asks/cluster"]
    assert cluster.log == []


def test_a_key_that_is_refused_in_mid_run_ends_it(cluster: Cluster, url: str, replace_node: Any) -> None:
    cluster.removal = ["forbidden"]
    done = replace_node("node-2", url)
    assert done.returncode == 1
    assert "the key in QDRANT_API_KEY may not change the cluster" in done.stderr
    assert cluster.log[1:] == ["remove"]


def test_mistakes_end_before_anything_is_changed(cluster: Cluster, url: str, replace_node: Any) -> None:
    cluster.key = "secret"
    assert "no answer from" in replace_node("node-2", url).stderr
    assert "is node-1 itself" in replace_node("node-1", url, QDRANT_API_KEY="secret").stderr
    usage = replace_node("node-2")
    assert (usage.returncode, "docs/replace-node.sh NODE URL" in usage.stderr) == (2, True)
    assert cluster.log == []


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
