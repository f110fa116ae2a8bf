"""Test the JSON API over real HTTP: correct responses, and requests that must be refused."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from points import image
from points import unit as random_vectors
from running_web import HOSTILE, LARGE_ID, PHOTOS, Web
from web_questions import JPEG, ask, error_of, ids, picture, unit

from search.index import CollectionSpec, Index, Points
from search.records import Vectors
from search.searcher import Searcher
from search.web.gallery import Gallery

MakeSpec = Callable[..., CollectionSpec]


def test_a_text_finds_the_nearest_images(web: Web, client: httpx.Client) -> None:
    [vector] = web.encoder.encode_texts(["Photo 7 in words"])
    answer = ask(client, {"text": "Photo 7 in words"}, k=12)
    assert ids(answer) == web.nearest_images(vector)[:12]
    assert answer["more"] is True
    first = answer["results"][0]
    assert first["rank"] == 1
    assert first["score"] == pytest.approx(float(web.images[int(first["id"])] @ vector), abs=1e-5)
    own = [web.captions[(int(first["id"]) - 100) * 10 + place] for place in range(5)]
    assert first["captions"] == [caption.text for caption, _ in own]
    texts = [nearest_caption(web, int(result["image_id"]), vector) for result in answer["results"]]
    assert [result["text"] for result in answer["results"]] == texts
    assert texts != [result["captions"][0] for result in answer["results"]]


def nearest_caption(web: Web, image_id: int, vector: Vectors) -> str:
    """Return the text of the image's caption that is nearest to the query."""
    own = [pair for pair in web.captions.values() if pair[0].image_id == image_id]
    return max(own, key=lambda pair: float(pair[1] @ vector))[0].text


def test_parts_are_added_and_subtracted(web: Web, client: httpx.Client) -> None:
    [text] = web.encoder.encode_texts(["noise"])
    vector = unit(text + 0.5 * web.images[110] - 2 * web.images[120])
    parts: list[dict[str, Any]] = [{"text": "noise"}, {"image_id": 110, "weight": 0.5}, {"image_id": 120, "weight": -2}]
    assert ids(ask(client, *parts, k=20)) == web.nearest_images(vector, without=(110, 120))[:20]


def test_a_text_longer_than_the_model_reads(client: httpx.Client) -> None:
    answer = client.post("/api/search", json={"parts": [{"text": "a dog"}, {"text": "x" * 100}]}).json()
    assert answer["truncated"] == [{"part": 1, "read": 77, "given": 102}]
    assert client.post("/api/search", json={"parts": [{"text": "a dog"}]}).json()["truncated"] == []


def test_captions_are_found_one_by_one_or_by_photo(web: Web, client: httpx.Client) -> None:
    scores = {caption_id: float(vector @ web.images[130]) for caption_id, (_, vector) in web.captions.items()}
    ranked = sorted(scores, key=lambda caption_id: (-scores[caption_id], caption_id))
    answer = ask(client, {"image_id": 130}, to="captions", k=10)
    assert ids(answer) == ranked[:10]
    assert answer["results"][0]["text"] == web.captions[ranked[0]][0].text
    photos = [web.captions[caption_id][0].image_id for caption_id in ranked]
    grouped = ask(client, {"image_id": 130}, to="captions", k=10, group=True)["results"]
    assert [int(result["image_id"]) for result in grouped] == list(dict.fromkeys(photos))[:10]
    same = [caption_id for caption_id in ranked if web.captions[caption_id][0].image_id == photos[0]]
    assert [grouped[0]["id"], *grouped[0]["also"]] == [str(caption_id) for caption_id in same]
    assert grouped[0]["also_images"] == [grouped[0]["image_id"]] * 4


def test_ids_are_strings_that_javascript_cannot_round(web: Web, client: httpx.Client) -> None:
    nearest = web.nearest_images(web.images[LARGE_ID], without=(LARGE_ID,))[:5]
    for image_id in (LARGE_ID, str(LARGE_ID), f"0{LARGE_ID}"):
        assert ids(ask(client, {"image_id": image_id}, k=5)) == nearest
    assert str(LARGE_ID) in [result["image_id"] for result in ask(client, {"text": "noise"}, k=PHOTOS)["results"]]
    record = client.get(f"/api/images/{LARGE_ID}").json()
    assert record["id"] == str(LARGE_ID)
    assert client.get(record["picture"]).headers["content-type"] == "image/jpeg"
    caption = ask(client, {"image_id": LARGE_ID}, to="captions", k=1)["results"][0]
    assert ask(client, {"caption_id": caption["id"]}, k=5) == ask(client, {"caption_id": int(caption["id"])}, k=5)
    most = {"parts": [{"image_id": str(2**63 - 1)}]}
    assert f"no image {2**63 - 1} in " in error_of(client.post("/api/search", json=most), 404)


def test_pages_continue_each_other(client: httpx.Client) -> None:
    whole = ask(client, {"text": "noise"}, k=PHOTOS)
    pages = [ask(client, {"text": "noise"}, k=25, offset=offset) for offset in (0, 25, 50)]
    assert [image_id for page in pages for image_id in ids(page)] == ids(whole)
    assert [page["more"] for page in pages] == [True, True, False]
    assert [page["results"][0]["rank"] for page in pages] == [1, 26, 51]
    after = ask(client, {"text": "noise"}, offset=PHOTOS)
    assert (after["results"], after["more"]) == ([], False)


def test_filters(web: Web, client: httpx.Client) -> None:
    results = ask(client, {"text": "noise"}, splits=["val"], k=200)["results"]
    assert len(results) == PHOTOS // 3
    assert {result["split"] for result in results} == {"val"}
    assert ids(ask(client, {"text": "noise"}, contains="Photo 17")) == [117]
    least = ask(client, {"image_id": 103}, k=200, min_score=0.9)["results"]
    assert len(least) == sum(float(vector @ web.images[103]) >= 0.9 for key, vector in web.images.items() if key != 103)
    scores = np.array([vector @ web.images[103] for key, vector in web.images.items() if key != 103])
    typical = float(np.mean([vector @ web.images[103] for vector in web.images.values()]))
    kept = ask(client, {"image_id": 103}, k=200, cutoff=0.5)["results"]
    assert len(kept) == (scores >= (typical + scores.max()) / 2).sum()
    refused = client.post("/api/search", json={"parts": [{"text": "noise"}], "splits": ["dev"]})
    assert "no split 'dev'" in error_of(refused, 422)


def test_fifty_concurrent_clients_get_the_same_results_as_alone(web: Web, client: httpx.Client) -> None:
    alone = [ask(client, {"text": f"sentence number {number}"}, k=5) for number in range(50)]

    def together(number: int) -> dict[str, Any]:
        with web.client() as own_client:
            return ask(own_client, {"text": f"sentence number {number}"}, k=5)

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(together, range(50)))
    for lone, answer in zip(alone, answers, strict=True):
        scores = [[result["score"] for result in each["results"]] for each in (lone, answer)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)  # a batch may round differently
        assert answer["results"][0]["id"] == lone["results"][0]["id"] or scores[0][0] - scores[0][1] < 1e-4


@pytest.mark.parametrize(
    ("question", "about"),
    [
        ({}, "parts"),
        ({"parts": []}, "parts"),
        ({"parts": [{"text": "a"}] * 17}, "parts"),
        ({"parts": [{}]}, "exactly one"),
        ({"parts": [{"text": "a", "image_id": 1}]}, "exactly one"),
        ({"parts": [{"text": "a" * 2001}]}, "2000"),
        ({"parts": [{"text": " "}]}, "empty"),
        ({"parts": [{"text": "\ud800"}]}, "parts.0.text"),
        ({"parts": [{"text": "a", "weight": 1e9}]}, "weight"),
        ({"parts": [{"text": "a", "weight": float("nan")}]}, "weight"),
        ({"parts": [{"text": "a", "weight": 0}]}, "weight other than 0"),
        ({"parts": [{"text": "a"}, {"text": "a", "weight": -1}]}, "cancel"),
        *(
            ({"parts": [{kind: odd}]}, kind)
            for kind in ("image_id", "caption_id")
            for odd in (-1, 2**63, 1.0, True, "", "-1", "1.0", " 1", "1_0", "\u0661", str(2**63), "9" * 30, [1])
        ),
        ({"parts": [{"picture": "../../etc/passwd"}]}, "picture"),
        ({"parts": [{"text": "a"}], "k": 201}, "k"),
        ({"parts": [{"text": "a"}], "k": 0}, "k"),
        ({"parts": [{"text": "a"}], "offset": 10_001}, "offset"),
        ({"parts": [{"text": "a"}], "to": "videos"}, "to"),
        ({"parts": [{"text": "a"}], "contains": "w" * 1001}, "contains"),
        ({"parts": [{"text": "a"}], "contains": " "}, "word to filter by"),
        ({"parts": [{"text": "a"}], "path": "/etc"}, "path"),
    ],
)
def test_invalid_queries_are_refused(client: httpx.Client, question: object, about: str) -> None:
    body = json.dumps(question)
    headers = {"Content-Type": "application/json"}
    assert about in error_of(client.post("/api/search", content=body, headers=headers), 422)


def test_bodies_that_are_not_queries(client: httpx.Client) -> None:
    as_json = {"Content-Type": "application/json"}
    error_of(client.post("/api/search", content=b"{", headers=as_json), 422)
    error_of(client.post("/api/search", content=b"[" * 100_000, headers=as_json), 400)
    error_of(client.post("/api/search", content=b"1" * 100_000, headers=as_json), 400)
    assert "128 KB" in error_of(client.post("/api/search", content=b" " * 200_000, headers=as_json), 413)
    good = json.dumps({"parts": [{"text": "a"}]}).encode()
    for other in ("text/plain", "application/x-www-form-urlencoded"):  # what a form of another site can send
        error_of(client.post("/api/search", content=good, headers={"Content-Type": other}), 422)


def raw(web: Web, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> httpx.Response:
    """Request a path exactly as it is, without normalization."""
    address = urlsplit(web.address)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.putrequest(method, path, skip_host=headers is not None and "Host" in headers)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    response = httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
    connection.close()
    return response


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/page.py",
        "/app.py",
        "/..%2fapp.py",
        "//etc/passwd",
        "/pictures/../../../../etc/passwd",
        "/pictures/..%2f..%2f..%2fetc%2fpasswd",
        "/docs",
        "/redoc",
        "/static/../app.py",
    ],
)
def test_no_path_leads_to_a_file(web: Web, path: str) -> None:
    error_of(raw(web, path), 404)


def test_missing_images_captions_and_paths(web: Web, client: httpx.Client) -> None:
    assert "no image 7 in " in error_of(client.get("/api/images/7"), 404)
    assert "no image 7 in " in error_of(client.get("/pictures/7"), 404)
    assert "no image 7 in " in error_of(client.post("/api/search", json={"parts": [{"image_id": 7}]}), 404)
    assert "no caption 99999" in error_of(client.post("/api/search", json={"parts": [{"caption_id": 99999}]}), 404)
    for path in ("/pictures/passwd", "/pictures/-1", f"/pictures/{2**70}", "/api/images/%00"):
        error_of(client.get(path), 422)
    error_of(client.get("/pictures/101/"), 404)  # no redirect, whose address would lack the prefix of a proxy
    plain = client.post("/api/search", content=b'{"parts":[{"text":"a"}]}')
    assert "Content-Type: application/json" in error_of(plain, 422)
    for method in ("DELETE", "PUT", "OPTIONS", "PATCH"):
        error_of(client.request(method, "/api/images/101"), 405)
    error_of(client.post("/healthz"), 405)
    photo = web.photos / "images/val2014/COCO_val2014_000000000108.jpg"
    photo.unlink()
    assert "no such file" in error_of(client.get("/pictures/108"), 404)
    photo.symlink_to(web.photos / "dataset_coco.json")
    assert "out of the photo folder" in error_of(client.get("/pictures/108"), 404)


def test_every_response_has_the_security_headers(web: Web, client: httpx.Client) -> None:
    answers = [
        client.get("/"),
        client.get("/page.js"),
        client.get("/healthz"),
        client.get("/pictures/101"),
        client.get("/nothing"),
        client.post("/api/search", json={}),
        client.post("/api/pictures", content=b"x" * (21 << 20), headers=JPEG),
        raw(web, "/", {"Host": "evil.example"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 404, 422, 413, 403]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


def test_other_sites_are_refused(web: Web, client: httpx.Client) -> None:
    port = urlsplit(web.address).port
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.",
        "",
        "203.0.113.5",
        "[",
    ):
        error_of(raw(web, "/api/collections", {"Host": host}), 403)
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST:1"):
        assert raw(web, "/api/collections", {"Host": host}).status_code == 200
    question = {"parts": [{"text": "a"}]}
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1:1"):
        error_of(client.post("/api/search", json=question, headers={"Origin": origin}), 403)
    error_of(client.post("/api/search", json=question, headers={"Origin": "http://["}), 403)
    assert client.post("/api/search", json=question, headers={"Origin": web.address}).status_code == 200


def test_health_collections_and_examples(web: Web, client: httpx.Client) -> None:
    health = client.get("/healthz").json()
    assert (health["status"], health["dataset"], health["images"]) == ("ok", "coco", PHOTOS)
    assert health["ready"]["texts"] is True
    deadline = time.monotonic() + 60
    while not client.get("/healthz").json()["ready"]["pictures"]:  # the model is loaded behind the first answers
        assert time.monotonic() < deadline
        time.sleep(0.2)
    collections = client.get("/api/collections").json()["collections"]
    assert [collection["collection"] for collection in collections] == ["coco_images", "coco_captions"]
    assert [collection["points"] for collection in collections] == [PHOTOS, 5 * PHOTOS]
    examples = client.get("/api/examples").json()["captions"]
    texts = {caption.text: caption.image_id for caption, _ in web.captions.values()}
    assert len({texts[example] for example in examples}) == len(examples) == 6
    record = client.get("/api/images/101").json()
    assert record["captions"][0] == HOSTILE
    assert record["file"] == "val2014/COCO_val2014_000000000101.jpg"


def test_a_sample_is_random_and_repeatable(client: httpx.Client) -> None:
    def sample(**options: int | str | list[str]) -> dict[str, Any]:
        return dict(client.get("/api/sample", params=options).raise_for_status().json())

    pages = [sample(seed=3, k=25, offset=offset) for offset in (0, 25, 50)]
    assert [page["more"] for page in pages] == [True, True, False]
    assert {page["total"] for page in pages} == {PHOTOS}
    order = [image["id"] for page in pages for image in page["images"]]
    assert len(set(order)) == PHOTOS
    assert order != sorted(order, key=int)
    assert [image["id"] for image in sample(seed=3, k=200)["images"]] == order
    assert [image["id"] for image in sample(seed=4, k=200)["images"]] != order
    val = sample(seed=3, k=15, splits=["val"])
    assert (len(val["images"]), val["more"], val["total"]) == (15, True, PHOTOS // 3)
    assert {image["split"] for image in val["images"]} == {"val"}
    for words, total in (("photo 51", None), ("document zebra", 0)):
        some = sample(k=200, contains=words)
        assert (len(some["images"]), some["more"], some["total"]) == (total is None, False, total)
    assert "no word" in error_of(client.get("/api/sample", params={"contains": "?"}), 422)


def test_a_sample_has_what_another_process_adds(index: Index, make_spec: MakeSpec, dataset: str) -> None:
    spec = make_spec(dim=8)
    index.create(spec)
    gallery = Gallery(Searcher(index, dataset))
    for count in (3, 5):
        index.upsert(spec.collection, Points([image(number) for number in range(count)], random_vectors(count, 8)))
        assert len(gallery.sample(seed=0, k=10).images) == count


def test_results_end_where_no_more_can_be_requested(client: httpx.Client) -> None:
    """A client that asks for as many as before, as long as there are more, gets no error."""
    at_the_end = ask(client, {"text": "noise"}, k=200, offset=1999, fold=0.95)
    assert (at_the_end["results"], at_the_end["more"]) == ([], False)
    beyond = {"parts": [{"text": "noise"}], "offset": 2000, "fold": 0.95}
    assert "with fold" in error_of(client.post("/api/search", json=beyond), 422)


def test_the_total_is_what_passes_the_filters(client: httpx.Client) -> None:
    assert ask(client, {"text": "noise"})["total"] is None
    assert ask(client, {"text": "noise"}, k=1, total=True)["total"] == PHOTOS
    assert ask(client, {"image_id": 103}, total=True)["total"] == PHOTOS - 1
    assert ask(client, {"text": "noise"}, total=True, splits=["val"])["total"] == PHOTOS // 3
    assert ask(client, {"text": "noise"}, total=True, to="captions")["total"] == 5 * PHOTOS
    assert ask(client, {"text": "noise"}, total=True, contains="document zebra")["total"] == 0
    assert ask(client, {"text": "noise"}, total=True, contains="photo 7")["total"] is None  # numbers are compared later


def test_the_openapi_document_is_complete(client: httpx.Client) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    assert set(described["paths"]) == {
        "/api/search", "/api/images/{image_id}", "/api/collections", "/api/examples", "/healthz", "/api/pictures",
        "/api/sample", "/pictures/{image_id}", "/pictures/{image_id}/original",
    }  # fmt: skip

    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].rpartition("/")[2] in described["components"]["schemas"]
            for value in node.values():
                check(value)
        elif isinstance(node, list):
            for value in node:
                check(value)

    check(described["paths"])
    for methods in described["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Failure")
            assert {"403", "413", "422", "500"} <= set(operation["responses"])


def test_the_index_requires_the_token(web: Web, client: httpx.Client) -> None:
    file = web.index / ".serve.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    announcement = json.loads(file.read_text())
    assert (announcement["pid"], announcement["address"]) == (web.process.pid, web.address)
    call: dict[str, Any] = {"method": "collections", "collection": None, "arguments": {}}
    for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer wrong"}):
        error_of(client.get("/internal/index", headers=headers), 401)
        error_of(client.post("/internal/index", json=call, headers=headers), 401)
    long = b'{"method": "' + 300 * 1024 * b"x" + b'", "collection": null, "arguments": {}}'
    as_json = {"Content-Type": "application/json"}
    error_of(
        client.post("/internal/index", content=long, headers=as_json), 413
    )  # without the token, a large call is not read
    good = {"Authorization": f"Bearer {announcement['token']}"}
    assert client.post("/internal/index", json=call, headers=good).json() == {"part": ["coco_captions", "coco_images"]}
    drop = {"method": "drop", "collection": "coco_images", "arguments": {}}
    assert "cannot answer 'drop'" in client.post("/internal/index", json=drop, headers=good).json()["message"]


def test_head_is_get_without_the_body(client: httpx.Client) -> None:
    paths = ["/", "/page.js", "/healthz", "/metrics", "/pictures/101", "/api/images/101", "/api/collections"]
    for path in [*paths, "/api/examples", "/openapi.json", "/pictures/7", "/nothing", "/api/search"]:
        get, head = client.get(path), client.head(path)
        assert head.status_code == get.status_code, path
        assert head.content == b""
        changing = {"date", "content-length"} if path == "/metrics" else {"date"}
        same = [{name: value for name, value in each.headers.items() if name not in changing} for each in (get, head)]
        assert same[0] == same[1]
        assert "content-length" in head.headers
    tag = client.head("/pictures/104").headers["etag"]
    assert client.head("/pictures/104", headers={"If-None-Match": tag}).status_code == 304


def test_content_types_are_case_insensitive(web: Web, client: httpx.Client) -> None:
    question = b'{"parts": [{"text": "a"}]}'
    for kind in ("Application/JSON; charset=utf-8", "APPLICATION/JSON"):
        assert client.post("/api/search", content=question, headers={"Content-Type": kind}).status_code == 200
    for kind in ("IMAGE/JPEG", "Image/Unknown"):
        answer = client.post("/api/pictures", content=picture(105, web), headers={"Content-Type": kind})
        assert answer.status_code == 200
    metrics = client.get("/metrics", headers={"Accept": "Application/OpenMetrics-Text; version=1.0.0"})
    assert metrics.headers["content-type"].startswith("application/openmetrics-text")


def test_the_server_survives_clients_that_disconnect(web: Web, client: httpx.Client) -> None:
    address = urlsplit(web.address)
    for sent in (
        b"GET / HT",
        b"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nxx",
        os.urandom(99),
    ):
        with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
            connection.sendall(sent)
    assert client.get("/healthz").status_code == 200
