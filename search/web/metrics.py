"""Count and time requests, calls of the model and calls of the index, for Prometheus at `GET /metrics`.

Every label has few values: routes are templates (`/pictures/{image_id}`), never the paths that clients sent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, cast

from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.encoder import Encoder, Truncation
from search.encoder.images import Pixels, Preparation
from search.errors import CocoSearchError, IndexFailure
from search.index import Batch, ReadIndex
from search.records import Vectors

OTHER = "other"  # a path without a route, or an unusual method
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
INDEX_CALLS = frozenset({"query", "retrieve", "count", "collections", "spec", "info", "disk_bytes"})
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
INDEX_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The counters and histograms of one application, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        self.requests = counter("coco_search_requests", "Requests answered", ["route", "method", "status"])
        self.request_seconds = histogram(
            "coco_search_request_seconds", "Seconds from a request to the end of its response", ["route", "method"]
        )
        self.uploads_refused = counter("coco_search_uploads_refused", "Uploaded pictures refused", ["status"])
        self.encoder_batch_size = histogram(
            "coco_search_encoder_batch_size", "Inputs encoded by one call of the model", ["input"], buckets=BATCH_SIZES
        )
        self.encoder_seconds = histogram("coco_search_encoder_seconds", "Seconds of one call of the model", ["input"])
        self.index_seconds = histogram(
            "coco_search_index_seconds", "Seconds of one call of the index", ["call"], buckets=INDEX_SECONDS
        )
        self.index_failures = counter("coco_search_index_failures", "Index calls that failed", ["call"])

    def describe(self, build: Mapping[str, str], points: Mapping[str, Callable[[], int]]) -> None:
        """Add a description of the application, and the points of each collection, counted at each request."""
        Info("coco_search_build", "What is served", registry=self.registry).info(dict(build))
        self.registry.register(_Points(points))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type, in the format that an `Accept` header requests."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    @contextlib.contextmanager
    def encoding(self, kind: str, size: int) -> Iterator[None]:
        """Measure one call of the model."""
        self.encoder_batch_size.labels(kind).observe(size)
        with self.encoder_seconds.labels(kind).time():
            yield

    @contextlib.contextmanager
    def index_call(self, call: str) -> Iterator[None]:
        """Measure one call of the index."""
        failures = self.index_failures.labels(call)
        with self.index_seconds.labels(call).time(), failures.count_exceptions(CocoSearchError):
            yield


class _Points(Collector):
    def __init__(self, points: Mapping[str, Callable[[], int]]) -> None:
        self._points = points

    def describe(self) -> list[GaugeMetricFamily]:
        return [GaugeMetricFamily("coco_search_points", "Points stored", labels=["collection"])]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        [family] = self.describe()
        for collection, count in self._points.items():
            with contextlib.suppress(IndexFailure):  # counted as a failure; the other metrics are still returned
                family.add_metric([collection], count())
        yield family


class MeasuredEncoder:
    """An encoder whose calls are counted and timed."""

    def __init__(self, encoder: Encoder, metrics: Metrics) -> None:
        self._encoder = encoder
        self._metrics = metrics
        self._one_at_a_time = Lock()  # tokenizers cannot be used by two threads
        self.name = encoder.name
        self.dim = encoder.dim

    @property
    def preparation(self) -> Preparation | None:
        return self._encoder.preparation

    def encode_images(self, images: Pixels | Sequence[Image.Image]) -> Vectors:
        with self._metrics.encoding("picture", len(images)):
            return self._encoder.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        with self._one_at_a_time, self._metrics.encoding("text", len(texts)):
            return self._encoder.encode_texts(texts)

    def truncations(self, texts: Sequence[str]) -> list[Truncation | None]:
        with self._one_at_a_time:
            return self._encoder.truncations(texts)


def measured_index(index: ReadIndex, metrics: Metrics) -> ReadIndex:
    """Return an index whose calls are counted and timed; each batch of a scan counts as one call."""
    return cast("ReadIndex", _MeasuredIndex(index, metrics))


class _MeasuredIndex:
    def __init__(self, index: ReadIndex, metrics: Metrics) -> None:
        self._index = index
        self._metrics = metrics

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._index, name)
        return partial(self._call, name, attribute) if name in INDEX_CALLS else attribute

    def scan(self, *arguments: Any, **named: Any) -> Iterator[Batch]:
        batches = self._index.scan(*arguments, **named)
        while True:
            with self._metrics.index_call("scan"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _call(self, name: str, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        with self._metrics.index_call(name):
            return call(*arguments, **named)


class MeasuredApp:
    """The outermost ASGI middleware, which counts and times the requests.

    Args:
        paths: the paths of the routes, to label requests that are refused before they are routed.
        uploads: the path for uploading pictures.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str], uploads: str) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else OTHER
        status = 500  # if no response is started

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        began = time.perf_counter()
        try:
            await self._app(scope, receive, send_noting_status)
        finally:
            self._count(scope, method, status, time.perf_counter() - began)

    def _count(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else OTHER
        route = str(getattr(scope.get("route"), "path", path))
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.request_seconds.labels(route, method).observe(seconds)
        if route == self._uploads and method == "POST" and status >= 400:
            self._metrics.uploads_refused.labels(str(status)).inc()
