"""Shared parts: a CLIP in the published layout, photos that are real JPEG files, and the indexes to test against."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"  # its fork handlers print, or abort, in children forked beside it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # one process for each core, so one thread for each process

import httpx
import numpy as np
import PIL.Image
import pytest
from browsing import browser, context, page  # noqa: F401 - fixtures of the tests of the page
from clip_factory import save_random_clip
from grpc_qdrant import LocalClient, grpc_qdrant
from hypothesis import settings as hypothesis_settings
from running_web import PHOTOS, Web, make_index, serving, stored

from search.encoder.clip import ClipEncoder
from search.index import CollectionSpec, Index, SplitSize, open_for_writing
from search.index.edge.index import EdgeIndex
from search.index.server.connection import Connection
from search.index.server.index import ServerIndex
from search.settings import Settings

MEMORY = Path("/dev/shm")  # the engine syncs its files, which is slow on a disk
ROOM = (4 << 30) + (256 << 20) * (os.cpu_count() or 1)  # bytes; each worker has files of its own
USABLE = os.access(MEMORY, os.W_OK) and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC  # tests run scripts in it
if USABLE and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

Call = Callable[..., tuple[int, str, str]]

hypothesis_settings.register_profile("no deadline", deadline=None)  # a slow machine is not a failure
hypothesis_settings.load_profile("no deadline")

# Read before any test clears the environment.
SERVER_URL, SERVER_KEY, SERVER_GRPC_PORT = map(os.environ.get, ("QDRANT_URL", "QDRANT_API_KEY", "QDRANT_GRPC_PORT"))

SHARED = Path(__file__).resolve().parents[2] / "shared"
SAMPLE = SHARED / "data/coco-sample"
KARPATHY_TEST = SHARED / "data/karpathy-test/dataset_coco.json"
PHOTO_TEXT_MODEL = SHARED / "models/photo-text-standin"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Distribute whole files under `--dist loadfile`: see scheduling.py."""
    from scheduling import Files

    return Files(config, log) if config.getoption("dist") == "loadfile" else None


def _has_server() -> bool:
    return bool(SERVER_URL or shutil.which("qdrant"))


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip a test if data that is not part of the repository is absent."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path.name} is not on this machine")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared text towers are shared by the tests of a session, and not left in the developer's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the developer's settings or leaves files in the checkout."""
    ends = [f"QDRANT_{what}_{end}" for what in ("API_KEY", "GRPC_PORT") for end in ("FROM", "TO")]
    for name in ("INDEX_PATH", "QDRANT_URL", "QDRANT_API_KEY", "QDRANT_GRPC_PORT", "QDRANT_TIMEOUT", "COLUMNS", *ends):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _a_server_that_is_not_there_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.index.retry.FIRST_CONTACT_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def _a_stand_in_for_a_server_has_no_index_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    if not _has_server():
        monkeypatch.setattr("search.index.server.indexing.PAUSE", 0.001)


@pytest.fixture(autouse=True)
def _few_queries_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's local mode takes long for the queries that an evaluation times."""
    monkeypatch.setattr("eval.ranks.replay.TIMED", 8)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C reach the processes that a test starts, even if the suite runs where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits SIG_IGN, not a handler
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small CLIP with random weights in the layout of clip-ViT-B-32."""
    return save_random_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def photo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dataset_coco.json` and `images/val2014/*.jpg`: 12 photos in two splits, 5 captions each."""
    folder = tmp_path_factory.mktemp("photos")
    return write_photo_set(folder, photos=12)


def write_photo_set(folder: Path, photos: int, dataset: str = "coco") -> Path:
    rng = np.random.default_rng(0)
    (folder / "images/val2014").mkdir(parents=True)
    entries = []
    for number in range(photos):
        name = f"COCO_val2014_{number + 100:012d}.jpg"
        noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(noise).resize((160, 120) if number % 2 else (120, 160))
        picture.save(folder / "images/val2014" / name, quality=90)
        texts = [f"Photo {number} in words, sentence {position}." for position in range(5)]
        entries.append(
            {
                "filepath": "val2014",
                "filename": name,
                "cocoid": number + 100,
                "imgid": number,
                "split": "test" if number < photos * 2 // 3 else "val",
                "sentids": [number * 10 + position for position in range(5)],
                "sentences": [
                    {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": number * 10 + position}
                    for position, text in enumerate(texts)
                ],
            }
        )
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": dataset}))
    return folder


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory, clip_folder: Path) -> Iterator[Web]:
    """The web page of 60 photos, served by a process of its own."""
    photos = write_photo_set(tmp_path_factory.mktemp("web-photos"), PHOTOS)
    index = make_index(tmp_path_factory.mktemp("web"), photos, clip_folder)
    known = stored(index)
    with serving(index) as (address, process):
        yield Web(address, process, index, photos, ClipEncoder(str(clip_folder), device="cpu"), *known)
    assert process.returncode == 0  # it was stopped with the model loaded


@pytest.fixture
def client(web: Web) -> Iterator[httpx.Client]:
    """A client of the served page."""
    with web.client() as client:
        yield client


@pytest.fixture(scope="session")
def qdrant_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A real server: the one at QDRANT_URL, or a `qdrant` binary on PATH, started here."""
    if SERVER_URL:
        port = int(SERVER_GRPC_PORT) if SERVER_GRPC_PORT else None
        yield Settings(qdrant_url=SERVER_URL, qdrant_api_key=SERVER_KEY or None, qdrant_grpc_port=port)
        return
    binary = shutil.which("qdrant")
    if binary is None:
        pytest.skip("no Qdrant server: set QDRANT_URL, or put a qdrant binary on PATH")
    folder = tmp_path_factory.mktemp("qdrant")
    http_port, grpc_port = _free_port(), _free_port()
    environment = {
        **os.environ,
        "QDRANT__SERVICE__HTTP_PORT": str(http_port),
        "QDRANT__SERVICE__GRPC_PORT": str(grpc_port),
        "QDRANT__SERVICE__HOST": "127.0.0.1",
        "QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"),
        "QDRANT__STORAGE__SNAPSHOTS_PATH": str(folder / "snapshots"),
        "QDRANT__TELEMETRY_DISABLED": "true",
    }
    with subprocess.Popen([binary], cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(f"http://127.0.0.1:{http_port}/readyz")
            yield Settings(qdrant_url=f"http://127.0.0.1:{http_port}", qdrant_grpc_port=grpc_port)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def local_grpc_server() -> Iterator[tuple[int, int]]:
    """Ports of a stand-in that speaks the server's wire format; some tests need a real one, `qdrant_server`."""
    with grpc_qdrant() as ports:
        yield ports


@pytest.fixture
def dataset() -> str:
    """A different data set name for each test, so that a shared server stays clean."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["embedded", pytest.param("memory", marks=pytest.mark.slow), "grpc", "server"])
def index(request: pytest.FixtureRequest, tmp_path: Path, dataset: str) -> Iterator[Index]:
    """Every implementation of the contract; a real server only if there is one.

    "memory" is the server's adapter over the local mode of qdrant-client; "grpc" adds the wire format between the two.
    """
    made: Index
    if request.param == "embedded":
        made = EdgeIndex(tmp_path / "index")
    elif request.param == "memory":
        made = ServerIndex(Connection(LocalClient(":memory:"), ":memory:", "qdrant-client local mode"))
    elif request.param == "grpc":
        rest_port, grpc_port = request.getfixturevalue("local_grpc_server")
        made = open_for_writing(Settings(qdrant_url=f"http://127.0.0.1:{rest_port}", qdrant_grpc_port=grpc_port))
    else:
        made = open_for_writing(request.getfixturevalue("qdrant_server"))
    yield made
    for name in made.collections():
        if name.startswith(dataset):
            made.drop(name)
    made.close()


everywhere = pytest.mark.parametrize("place", ["embedded", "grpc", "server"], indirect=True)
"""Mark a test to run on the stand-in for a server in the quick suite too."""


@pytest.fixture(params=["embedded", pytest.param("grpc", marks=pytest.mark.slow), "server"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """Command line options that name an empty index: embedded, on the stand-in for a server, and on a real server."""
    if request.param == "embedded":
        yield ["--path", str(tmp_path / "index"), "--dataset", dataset]
        return
    if request.param == "grpc":
        rest_port, grpc_port = request.getfixturevalue("local_grpc_server")
        settings = Settings(qdrant_url=f"http://127.0.0.1:{rest_port}", qdrant_grpc_port=grpc_port)
    else:
        settings = request.getfixturevalue("qdrant_server")
    assert settings.qdrant_url
    if settings.qdrant_grpc_port:
        monkeypatch.setenv("QDRANT_GRPC_PORT", str(settings.qdrant_grpc_port))
    if settings.qdrant_api_key:
        monkeypatch.setenv("QDRANT_API_KEY", settings.qdrant_api_key)
    yield ["--url", settings.qdrant_url, "--dataset", dataset]
    server = open_for_writing(settings)
    for kind in ("images", "captions"):
        server.drop(f"{dataset}_{kind}")
    server.close()


@pytest.fixture
def make_spec(dataset: str) -> Callable[..., CollectionSpec]:
    """A collection's specification with some fields changed."""

    return partial(plain_spec, dataset=dataset)


def plain_spec(**changes: object) -> CollectionSpec:
    plain: dict[str, object] = {
        "dataset": "coco",
        "kind": "images",
        "dim": 4,
        "model": "some-clip",
        "revision": None,
        "weights": "a" * 64,
        "dtype": "float32",
        "prompt": None,
        "decode": "full",
        "annotations": "b" * 64,
        "photos": "/photos",
        "splits": {"test": SplitSize(images=3, captions=15, images_in_file=3)},
        "version": "0",
    }
    return CollectionSpec(**{**plain, **changes})  # type: ignore[arg-type]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(url: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """A function that runs a command line in this process and returns (exit code, stdout, stderr)."""

    def run(package: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [package, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            importlib.import_module(f"{package}.__main__").main()
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run


def ingest_options(photo_set: Path, clip_folder: Path, place: list[str]) -> list[str]:
    files = ["--annotations", str(photo_set / "dataset_coco.json"), "--images", str(photo_set / "images")]
    return ["run", *files, "--model", str(clip_folder), *place]


def one_line_error(result: tuple[int, str, str]) -> str:
    """The message of a command that ended in one clear line and exit code 1."""
    code, out, err = result
    assert code == 1, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert err.rstrip().endswith(lines[0])
    assert "Traceback" not in err
    return lines[0]
