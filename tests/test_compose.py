"""docker-compose.yml: what Docker Compose accepts, versions that fit each other, and nothing reachable from outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ("node-1", "node-2", "node-3")


def interpolated() -> dict[str, Any]:
    """The file as Docker Compose reads it: each `${NAME:-default}` replaced."""
    read: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", TEXT))
    assert "${" not in str(read)
    return read


def variables(service: str) -> dict[str, str | None]:
    """The environment of a container; None is passed through, if it is set."""
    lines = (line.partition("=") for line in interpolated()["services"][service]["environment"])
    return {name: value if given else None for name, given, value in lines}


def test_it_follows_the_compose_specification() -> None:
    checker = jsonschema.Draft202012Validator(SCHEMA)
    for compose in (COMPOSE, interpolated()):
        assert [error.message for error in checker.iter_errors(compose)] == []
    misspelt = {"services": {"qdrant": {"image": "qdrant/qdrant", "volume": ["a:/b"]}}}
    assert not checker.is_valid(misspelt)


def test_server_and_client_are_within_one_minor_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = next(need for need in project["dependencies"] if need.startswith("qdrant-client"))
    [image] = {service["image"] for service in SERVICES.values()}
    assert f">=1.{image.rpartition(':v')[2].split('.')[1]}." in client
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["services"]["qdrant"]["image"] == image


def test_only_this_machine_can_reach_it() -> None:
    for service in SERVICES.values():
        assert service["ports"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert not any(port.endswith(":6335") for port in service["ports"])  # the nodes' own, which asks for no key


def test_a_single_node_is_the_default_and_the_cluster_can_stand_beside_it() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"qdrant"}
    assert all(SERVICES[node]["profiles"] == ["cluster"] for node in NODES)
    outside = [port.rsplit(":", 1)[0] for service in SERVICES.values() for port in service["ports"]]
    assert len(outside) == len(set(outside)) == 8
    for service in SERVICES.values():  # the client looks for gRPC at the port after the one in the URL
        http, grpc = [int(port.split(":")[1]) for port in service["ports"]]
        assert grpc == http + 1


def test_what_is_stored_is_kept_in_named_volumes_of_each_node() -> None:
    mounts = [volume.split(":") for service in SERVICES.values() for volume in service["volumes"]]
    assert {target for _, target in mounts} == {"/qdrant/storage", "/qdrant/snapshots"}
    names = [name for name, _ in mounts]
    assert len(names) == len(set(names))
    assert set(names) == set(COMPOSE["volumes"])
    assert {name: volume["name"] for name, volume in COMPOSE["volumes"].items()} == {
        name: f"coco-search_{name}" for name in names
    }


def test_nodes_find_each_other() -> None:
    for node in NODES:
        assert variables(node)["QDRANT__CLUSTER__ENABLED"] == "true"
        command = SERVICES[node]["command"]
        assert command[command.index("--uri") + 1] == f"http://{node}:6335"
    assert "--bootstrap" not in SERVICES["node-1"]["command"]
    for node in NODES[1:]:
        command = SERVICES[node]["command"]
        assert command[command.index("--bootstrap") + 1] == "http://node-1:6335"
        assert SERVICES[node]["depends_on"] == {"node-1": {"condition": "service_started"}}


@pytest.mark.parametrize("service", SERVICES)
def test_keys_are_passed_through(service: str) -> None:
    passed = {name for name, value in variables(service).items() if value is None}
    assert passed == {"QDRANT__SERVICE__API_KEY", "QDRANT__SERVICE__READ_ONLY_API_KEY"}


@pytest.mark.parametrize("command", [["docker", "compose"], ["docker-compose"]], ids=" ".join)
def test_docker_compose_accepts_it(command: list[str], tmp_path: Path) -> None:
    """Both the present one and 1.29, which knows neither `name:` nor `${NAME:+word}`."""
    if (
        not shutil.which(command[0])
        or subprocess.run([*command, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"no {' '.join(command)} on this machine")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / ".env").write_text("QDRANT__SERVICE__API_KEY=from the file\n")
    # What docs/replace-node.sh adds.
    (tmp_path / "joining.yml").write_text(
        'services:\n  node-1:\n    command: ["./qdrant", "--bootstrap", "http://b"]\n'
    )

    def config(*options: str, **environment: str) -> dict[str, Any]:
        done = subprocess.run(
            [*command, *options, "config"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        read: dict[str, Any] = yaml.safe_load(done.stdout)
        return read

    environment = config()["services"]["qdrant"]["environment"]
    assert environment["QDRANT__SERVICE__API_KEY"] == "from the file"
    assert environment.get("QDRANT__SERVICE__READ_ONLY_API_KEY") is None
    files = ("-f", "docker-compose.yml", "-f", "joining.yml")
    merged = config("--profile", "cluster", *files, QDRANT__SERVICE__READ_ONLY_API_KEY="look")["services"]
    assert set(merged) == set(SERVICES)
    assert merged["node-3"]["environment"]["QDRANT__SERVICE__READ_ONLY_API_KEY"] == "look"
    assert merged["node-1"]["command"] == ["./qdrant", "--bootstrap", "http://b"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_may_do_no_more_than_it_needs(service: str) -> None:
    what = SERVICES[service]
    assert what["image"].endswith("-unprivileged")
    assert what["read_only"] is True
    assert what["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in what["security_opt"]
    assert what["mem_limit"]
    assert what["pids_limit"]
    mark = variables(service)["QDRANT_INIT_FILE_PATH"]
    assert mark
    assert any(mark.startswith(mount.split(":")[0] + "/") for mount in what["tmpfs"])


@pytest.mark.parametrize(("answer", "healthy"), [("200 OK", True), ("503 Service Unavailable", False)])
def test_the_health_check_asks_readyz(answer: str, healthy: bool) -> None:
    kind, *command = SERVICES["qdrant"]["healthcheck"]["test"]
    assert kind == "CMD"
    server = (
        "import socket, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0)); print(listener.getsockname()[1], flush=True)\n"
        "asked, _ = listener.accept(); print(asked.recv(1000), flush=True)\n"
        f"asked.sendall(b'HTTP/1.0 {answer}\\r\\n\\r\\nsome text'); asked.close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = process.stdout.readline().strip()
        done = subprocess.run([part.replace("/6333", f"/{port}") for part in command], timeout=20, check=False)
        assert "GET /readyz HTTP/1.0" in process.stdout.readline()
    assert (done.returncode == 0) is healthy
