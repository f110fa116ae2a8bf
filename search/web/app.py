"""Build the ASGI application that serves the page and its JSON API."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version as package_version
from importlib.resources import files
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.errors import CocoSearchError, IndexBusy, NotFound, PhotoError, QueryError, ServerError
from search.index.relay.announce import ROUTE, Running
from search.index.relay.routes import index_calls
from search.records import KINDS
from search.request import CONTAINS, FilterWords, Id
from search.text import shown
from search.validation import first_problem
from search.web.gallery import Gallery, version
from search.web.metrics import MeasuredApp, Metrics
from search.web.origins import PublicUrl
from search.web.protection import INTERNAL_BYTES, PICTURE_BYTES, Protection
from search.web.schemas import (
    MAX_K,
    MAX_OFFSET,
    MAX_SPLITS,
    Collections,
    Examples,
    Failure,
    Health,
    ImageRecord,
    PictureToken,
    Sample,
    SearchResults,
    SplitName,
    WebQuery,
)
from search.web.workers import Workers

SCRIPTS = (
    *("actions", "answers", "api", "chips", "keyboard", "page", "pictures", "place", "query", "results"),
    *("search", "share", "state", "view", "viewer", "wording", "words"),
)
ASSETS = {  # path: (file, content type)
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/dialogs.css": ("dialogs.css", "text/css; charset=utf-8"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8") for name in SCRIPTS},
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PICTURES = "/api/pictures"
UPLOADS_AT_ONCE, UPLOAD_QUEUE = 2, 64
CLIENT_LEFT = 499  # as in nginx: the client closed the connection before the response
CACHE_FOREVER = "public, max-age=31536000, immutable"


def create_app(
    gallery: Gallery,
    *,
    host: str,
    public: Sequence[PublicUrl] = (),
    running: Running | None = None,
    metrics: Metrics | None = None,
) -> ASGIApp:
    """Return the application.

    Args:
        gallery: the data set that is served; its `warm_up` has been called.
        host: the name or address that the server is bound to.
        public: the addresses of the page behind reverse proxies.
        running: the announcement of this server, if other commands may read the index through it.
        metrics: those of the gallery's index and encoder, if these are measured.
    """
    metrics = metrics or Metrics()
    app = FastAPI(
        title="coco-search",
        version=package_version("coco-search"),
        redirect_slashes=False,  # the address would lack the prefix of a proxy
        docs_url=None,  # these pages load scripts from another site
        redoc_url=None,
        servers=[{"url": str(url)} for url in public] or None,
        responses={code: {"model": Failure} for code in (403, 413, 422, 500, 503)},
    )
    _add_error_handlers(app)
    workers = Workers()
    uploads = Workers(UPLOADS_AT_ONCE, UPLOAD_QUEUE)  # which may wait for the model
    _add_api(app, gallery, workers)
    _add_pictures(app, gallery, workers, uploads)
    _add_metrics(app, gallery, metrics)
    _add_assets(app)
    if running is not None:
        app.include_router(index_calls(gallery.index, running, gallery.ready_model))
    # Outermost, so that error responses have the security headers too, and refused requests are counted.
    limits = {PICTURES: PICTURE_BYTES, **({ROUTE: INTERNAL_BYTES} if running else {})}
    token = running.headers["Authorization"] if running else ""
    protected = Protection(app, host, limits, token, {url.origin for url in public})
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    return MeasuredApp(HeadAsGet(protected), metrics, paths, uploads=PICTURES)


class HeadAsGet:
    """ASGI middleware that answers HEAD like GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            scope["method"] = "HEAD"  # uvicorn expects a body of Content-Length bytes unless this is HEAD
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["method"] = "GET"  # in place: the router stores the route in this scope, where the metrics read it
        await self._app(scope, receive, send_without_body)


def _add_api(app: FastAPI, gallery: Gallery, workers: Workers) -> None:
    @app.post("/api/search", response_model=SearchResults, responses=_failure_responses(404))
    async def search(query: WebQuery) -> Response:
        """Return the images or captions nearest to the weighted sum of the parts, best first."""
        with workers.place():
            encoded = await gallery.encode(query)
            answer = await workers.call(partial(gallery.search, query, encoded))
        return Response(answer, media_type="application/json")  # FastAPI does not validate it again

    @app.get("/api/images/{image_id}", responses=_failure_responses(404))
    async def image(image_id: Id) -> ImageRecord:
        """Return one stored image."""
        return await workers.run(partial(gallery.image, image_id))

    @app.get("/api/sample")
    async def sample(
        seed: Annotated[int, Query(ge=0, lt=2**53, description="The same seed gives the same order")] = 0,
        k: Annotated[int, Query(ge=1, le=MAX_K, description="How many images")] = 30,
        offset: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="How many images to skip before them")] = 0,
        splits: Annotated[list[SplitName], Query(max_length=MAX_SPLITS)] = [],  # noqa: B006
        contains: Annotated[FilterWords | None, Query(description=CONTAINS)] = None,
    ) -> Sample:
        """Return stored images in a random order (of a very large data set, only from the first 20,000)."""
        return await workers.run(partial(gallery.sample, seed, k, offset, splits=splits, contains=contains))

    @app.get("/api/collections")
    def collections() -> Collections:
        """Return the two collections: their numbers of points, and how they were made."""
        return gallery.collections()

    @app.get("/api/examples")
    def examples() -> Examples:
        """Return a few captions to search for."""
        return Examples(captions=gallery.examples)

    @app.get("/healthz")
    def health() -> Health:
        """Check that the index answers."""
        return gallery.health()


def _add_pictures(app: FastAPI, gallery: Gallery, workers: Workers, uploads: Workers) -> None:
    body = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}, "required": True}

    @app.post(PICTURES, responses=_failure_responses(415), openapi_extra={"requestBody": body})
    async def upload(request: Request) -> PictureToken:
        """Upload a picture as the body of the request: JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF, at most 20 MB."""
        if not request.headers.get("content-type", "").lower().startswith("image/"):
            raise HTTPException(415, "send the picture as the request body, with its Content-Type, such as image/jpeg")
        content = bytearray()
        async for chunk in request.stream():  # Protection raises if it is too large
            content += chunk
        return PictureToken(picture=await uploads.run(partial(gallery.upload, bytes(content))))

    jpeg: dict[str, Any] = {"content": {"image/jpeg": {}}}

    @app.get("/pictures/{image_id}", response_class=Response, responses={**_failure_responses(404), 200: jpeg, 304: {}})
    async def picture(
        image_id: Id,
        size: Annotated[Literal["360", "720", "1600"] | None, Query(description="The longer side in pixels")] = None,
        v: Annotated[
            str,
            Query(max_length=20, description="As in `picture` of a result; allows caching forever"),
        ] = "",
        if_none_match: Annotated[str, Header()] = "",
    ) -> Response:
        """Return the photo of a stored image, as JPEG."""
        photo = await workers.run(partial(gallery.jpeg, image_id, int(size) if size else None, if_none_match))
        headers = {"ETag": photo.tag, "Cache-Control": CACHE_FOREVER if v == version(photo.tag) else "no-cache"}
        if photo.tag == if_none_match:
            return Response(status_code=304, headers=headers)
        return Response(photo.content, media_type="image/jpeg", headers=headers)

    @app.get("/pictures/{image_id}/original", response_class=Response, responses=_failure_responses(404))
    async def original(image_id: Id) -> Response:
        """Return the photo file of a stored image as it is, to save it."""
        name, content = await workers.run(partial(gallery.original, image_id))
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
        return Response(content, media_type="application/octet-stream", headers=headers)


def _add_metrics(app: FastAPI, gallery: Gallery, metrics: Metrics) -> None:
    names = [gallery.searcher.collection(kind) for kind in KINDS]
    stored = gallery.index.collections()
    build = {
        "version": app.version,
        "dataset": gallery.dataset,
        "model": gallery.index.spec(names[0]).model,
        "engine": gallery.index.engine,
    }
    metrics.describe(build, {name: partial(gallery.index.count, name) for name in names if name in stored})

    @app.get("/metrics", include_in_schema=False)
    def exposition(accept: Annotated[str, Header()] = "") -> Response:
        content, content_type = metrics.exposition(accept.lower())
        return Response(content, headers={"Content-Type": content_type})


def _add_assets(app: FastAPI) -> None:
    for path, (name, content_type) in ASSETS.items():
        content = files("search.web").joinpath(name).read_bytes()
        app.add_route(path, _asset(content, content_type), include_in_schema=False)


def _asset(content: bytes, content_type: str) -> Any:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'

    async def send(request: Request) -> Response:
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=content_type, headers=headers)

    return send


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every failure with one line of JSON."""

    @app.exception_handler(CocoSearchError)
    async def project_error(_: Request, error: CocoSearchError) -> JSONResponse:
        return _failure(_status(error), str(error))

    @app.exception_handler(StarletteHTTPException)
    async def http_error(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return _failure(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = first_problem(error)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and not kind.endswith(("application/json", "+json")):
            return _failure(422, "send the query as JSON, with the header Content-Type: application/json")
        place = problem.place.removeprefix("body").removeprefix(".") or "the request"
        return _failure(422, f"{place}: {problem.message}")

    @app.exception_handler(ClientDisconnect)
    async def client_left(_: Request, __: Exception) -> Response:
        return Response(status_code=CLIENT_LEFT)  # for the metrics only: the client is gone

    @app.exception_handler(500)
    async def unexpected_error(_: Request, error: Exception) -> JSONResponse:
        return _failure(500, f"internal server error ({type(error).__name__}): see its output for details")


def _status(error: CocoSearchError) -> int:
    match error:
        case NotFound():
            return 404
        case QueryError() | PhotoError():
            return 422
        case IndexBusy() | ServerError():
            return 503
        case _:
            return 500


def _failure(status: int, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": shown(" ".join(message.split()))}, status, headers)


def _failure_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure} for status in statuses}
