"""docker-compose.yml: versions that fit each other, and nothing reachable from outside."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
QDRANT: dict[str, Any] = COMPOSE["services"]["qdrant"]


def test_server_and_client_are_within_one_minor_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = next(need for need in project["dependencies"] if need.startswith("qdrant-client"))
    minor = int(QDRANT["image"].rpartition(":v")[2].split(".")[1])
    assert f">=1.{minor}," in client
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["services"]["qdrant"]["image"] == QDRANT["image"]


def test_only_this_machine_can_reach_it() -> None:
    assert QDRANT["ports"]
    assert all(port.startswith("127.0.0.1:") for port in QDRANT["ports"])


def test_collections_are_kept_in_a_named_volume() -> None:
    volume = QDRANT["volumes"][0].partition(":")[0]
    assert volume in COMPOSE["volumes"]


def test_health_is_asked_of_readyz() -> None:
    assert "/readyz" in QDRANT["healthcheck"]["test"][-1]
