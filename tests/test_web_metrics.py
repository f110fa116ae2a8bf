"""Test `GET /metrics`, over real HTTP and with two applications in one process."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
from conftest import Call, ingest_options
from running_web import PHOTOS
from starlette.types import ASGIApp

from search.index.edge.index import EdgeIndex
from search.searcher import Searcher
from search.web.app import create_app
from search.web.gallery import Gallery
from search.web.metrics import Metrics, measured_index

PAGE = (Path(__file__).parents[1] / "docs/web.md").read_text()
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    """Return the values by name and labels."""
    samples: Samples = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.M):
        samples[name, frozenset(re.findall(r'(\w+)="(.*?)"', labels))] = float(value)
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"coco_search_{name}", frozenset(labels.items())), 0.0)


def test_requests_encodings_and_index_calls_are_counted(client: httpx.Client) -> None:
    before = read(client.get("/metrics").text)
    question = {"parts": [{"text": "noise"}]}
    assert client.post("/api/search", json=question).status_code == 200
    client.get("/api/images/101")
    client.get("/api/images/7")
    client.delete("/api/images/101")
    client.get("/no/such/path")
    client.get("/page.js")
    client.request("PROPFIND", "/")
    client.get("/healthz", headers={"Host": "evil.example"})
    jpeg = {"Content-Type": "image/jpeg"}
    for content in (b"no picture", b"x" * (21 << 20)):
        client.post("/api/pictures", content=content, headers=jpeg)
    client.post("/internal/index", json={})
    after = read(client.get("/metrics").text)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    for route, method, status in (
        ("/api/search", "POST", "200"),
        ("/api/images/{image_id}", "GET", "200"),
        ("/api/images/{image_id}", "GET", "404"),
        ("/api/images/{image_id}", "DELETE", "405"),
        ("other", "GET", "404"),
        ("/page.js", "GET", "200"),
        ("/", "other", "405"),
        ("/healthz", "GET", "403"),
        ("/api/pictures", "POST", "422"),
        ("/api/pictures", "POST", "413"),
        ("/internal/index", "POST", "401"),
        ("/metrics", "GET", "200"),
    ):
        assert more("requests_total", route=route, method=method, status=status) == 1, (route, method, status)
    assert more("request_seconds_count", route="/api/images/{image_id}", method="GET") == 2
    assert more("request_seconds_sum", route="/api/search", method="POST") > 0
    assert more("uploads_refused_total", status="413") == more("uploads_refused_total", status="422") == 1
    assert more("encoder_batch_size_count", input="text") == more("encoder_batch_size_sum", input="text") == 1
    assert more("encoder_seconds_count", input="text") == 1
    assert more("index_seconds_count", call="query") == 2  # the images, and their nearest captions
    assert more("index_seconds_count", call="retrieve") == 2
    assert more("index_failures_total", call="query") == 0
    assert value(after, "points", collection="coco_images") == PHOTOS
    assert value(after, "points", collection="coco_captions") == 5 * PHOTOS
    assert not re.search(r"evil|no/such|PROPFIND|/101", client.get("/metrics").text)


def test_the_formats_and_that_other_sites_are_refused(client: httpx.Client) -> None:
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert plain.headers["x-content-type-options"] == "nosniff"
    openmetrics = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")
    assert client.get("/metrics", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/metrics", headers={"Origin": "http://evil.example"}).status_code == 403


def test_the_documentation_lists_every_metric(client: httpx.Client) -> None:
    rows = re.findall(r"^\| `(coco_search_\w+)` \| (.*?) \|", PAGE, re.M)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    client.post("/api/pictures", content=b"no picture", headers={"Content-Type": "image/jpeg"})
    text = client.get("/metrics").text
    names = {name for name in re.findall(r"^# TYPE (\w+) ", text, re.M) if not name.endswith("_created")}
    assert names == set(documented)
    for name, labels in documented.items():
        used = {label for key, pairs in read(text) if key.startswith(name) for label, _ in pairs}
        assert used - {"le"} == labels, name


def request_in_process(application: ASGIApp, method: str, path: str, question: object = None) -> httpx.Response:
    """Return the response of an application in this process."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://localhost") as client:
            return await client.request(method, path, json=question)

    return asyncio.run(send())


def test_two_applications_in_one_process(call: Call, photo_set: Path, clip_folder: Path) -> None:
    applications = []
    for name in ("one", "two"):
        call("ingest", *ingest_options(photo_set, clip_folder, ["--path", name]))
        metrics = Metrics()
        index = EdgeIndex(Path(name))
        gallery = Gallery(Searcher(measured_index(index, metrics)))
        gallery.warm_up()
        applications.append((index, gallery, create_app(gallery, host="localhost", metrics=metrics)))
    (index, gallery, used), (_, other, idle) = applications
    question = {"parts": [{"image_id": 101}], "to": "images"}
    assert request_in_process(used, "POST", "/api/search", question).status_code == 200
    index.drop("coco_images")  # by another command, say
    assert request_in_process(used, "POST", "/api/search", question).status_code == 500
    own, others = (read(request_in_process(application, "GET", "/metrics").text) for application in (used, idle))
    assert value(own, "requests_total", route="/api/search", method="POST", status="200") == 1
    assert value(own, "requests_total", route="/api/search", method="POST", status="500") == 1
    assert value(own, "index_failures_total", call="retrieve") == 1
    assert value(own, "points", collection="coco_captions") == 60
    assert ("coco_search_points", frozenset({("collection", "coco_images")})) not in own
    assert not [labels for name, labels in others if ("route", "/api/search") in labels]
    assert value(others, "points", collection="coco_captions") == 60
    gallery.close()
    other.close()
