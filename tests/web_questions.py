"""Ask the API of the page, and read its responses."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
from running_web import Web

from search.records import Vectors

JPEG = {"Content-Type": "image/jpeg"}


def ask(client: httpx.Client, *parts: dict[str, Any], **options: Any) -> dict[str, Any]:
    response = client.post("/api/search", json={"parts": parts, **options})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def ids(answer: dict[str, Any]) -> list[int]:
    return [int(result["id"]) for result in answer["results"]]


def error_of(answer: httpx.Response, status: int) -> str:
    """Return the message of a failure, after checking its form."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert "\n" not in body["error"]
    assert "Traceback" not in body["error"]
    return str(body["error"])


def picture(number: int, web: Web) -> bytes:
    return (web.photos / f"images/val2014/COCO_val2014_{number:012d}.jpg").read_bytes()


def unit(vector: Vectors) -> Vectors:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
