"""A text is a text, whatever it says: nothing is opened or connected to because of it."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import PHOTO_TEXT_MODEL, Call, ingest_options, needs, one_line_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running_web import Web

from search.encoder.clip import ClipEncoder

DEMO_MODEL = Path(__file__).parent.parent / "ingest/demo/model"
WATCHED = ("open", "socket.", "urllib.", "http.", "ftplib.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")

LONG = "a dog " * 17_000  # 100 kB
UNREADABLE = ["a\0b", "http://127.0.0.1/\0.png", "half \ud83d an emoji", "caf\udce9.png"]

_seen: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event.startswith(WATCHED):
        _seen.append(f"{event} {arguments}")


sys.addaudithook(_watch)  # it cannot be taken away again


@contextmanager
def nothing_happens() -> Iterator[None]:
    """Fails if this process opens a file, makes a connection or starts a program."""
    global _watching
    _seen.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert _seen == []


class Bait:
    """A listener that must not be connected to, and files that must not be opened."""

    def __init__(self, folder: Path) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.host = f"127.0.0.1:{self.socket.getsockname()[1]}"
        PIL.Image.new("RGB", (40, 30), "red").save(folder / "red.png")
        for name in ("red.jpg", "RED.WEBP", "song.wav", "song.mp3", "film.mp4", "film.mkv"):
            shutil.copy(folder / "red.png", folder / name)
        self.files = [str(file) for file in folder.iterdir()]

    def is_untouched(self) -> bool:
        try:
            self.socket.accept()
        except BlockingIOError:
            return True
        return False

    def texts(self) -> list[str]:
        schemes = ("http", "https", "HTTP", "ftp", "file", "s3", "gs", "ws", "rtsp")
        endings = ("a.png", "a.JPG", "a.gif?x=1", "a.mp4", "a.wav", "watch?v=1", "")
        urls = [f"{scheme}://{self.host}/a.png" for scheme in schemes]
        urls += [f"http://{self.host}/{ending}" for ending in endings]
        odd = ["https://[[no]]/a.png", "https://youtu.be/x", "https://www.youtube.com/watch?v=x", "http://"]
        files = [
            *self.files,
            *(f"file://{file}" for file in self.files),
            "a photo of red.png",
            "./red.png",
            "~/red.png",
        ]
        kinds = ("image/png", "image/", "video/mp4", "audio/wav", "text/plain", "")
        inline = [f"data:{kind}{rest}" for kind in kinds for rest in ("", " hello", ";base64,iVBORw0KGgo=", ",%89PNG")]
        return [*urls, *odd, *files, *inline, LONG, self.files[0] + " " * 50_000, "{}", "{'text': 'a'}"]


@pytest.fixture(scope="module")
def bait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bait]:
    bait = Bait(tmp_path_factory.mktemp("bait"))
    with bait.socket:
        yield bait


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("clip", "data:image/{}"),
        ("demo", None),
        pytest.param("router", None, marks=[needs(PHOTO_TEXT_MODEL), pytest.mark.slow]),
    ],
)
def test_texts_are_encoded_as_texts(bait: Bait, clip_folder: Path, model: str, prompt: str | None) -> None:
    folders = {"clip": clip_folder, "demo": DEMO_MODEL, "router": PHOTO_TEXT_MODEL}
    encoder = ClipEncoder(str(folders[model]), device="cpu", prompt=prompt)
    encoder.encode_texts(["a dog"])
    texts = [*bait.texts(), *UNREADABLE]
    with nothing_happens():
        vectors = encoder.encode_texts(texts)
        truncations = encoder.truncations(texts)
    assert bait.is_untouched()
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths[: -len(UNREADABLE)], 1, atol=1e-5)
    assert np.isnan(vectors[-len(UNREADABLE) :]).all()
    assert truncations[texts.index(LONG)] is not None
    assert truncations[-1] is None
    red = encoder.encode_images([PIL.Image.open(bait.files[0]).convert("RGB")])[0]
    assert (vectors[:-4] @ red).max() < 0.999


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_text_is_opened_or_fetched(bait: Bait, tiny_encoder: ClipEncoder, data: st.DataObject) -> None:
    known = st.sampled_from([*bait.texts(), *UNREADABLE])
    around = st.text(max_size=5)
    texts = st.lists(st.one_of(known, st.builds(str.__add__, around, known), st.text(max_size=20)), max_size=4)
    chosen = data.draw(texts)
    with nothing_happens():
        vectors = tiny_encoder.encode_texts(chosen)
        tiny_encoder.truncations(chosen)
    assert bait.is_untouched()
    unreadable = ["\0" in text or any("\ud800" <= char <= "\udfff" for char in text) for text in chosen]
    assert np.isnan(vectors).all(axis=1).tolist() == unreadable
    assert np.isnan(vectors).any(axis=1).tolist() == unreadable


@pytest.fixture(scope="module")
def tiny_encoder(clip_folder: Path) -> ClipEncoder:
    encoder = ClipEncoder(str(clip_folder), device="cpu")
    encoder.encode_texts(["a dog"])
    return encoder


def test_hostile_captions_and_queries(
    bait: Bait, call: Call, photo_set: Path, clip_folder: Path, tmp_path: Path
) -> None:
    hostile = bait.texts()
    annotations = json.loads((photo_set / "dataset_coco.json").read_text())
    sentences = [sentence for image in annotations["images"] for sentence in image["sentences"]]
    for sentence, text in zip(sentences, hostile, strict=False):
        sentence["raw"] = text
    (tmp_path / "hostile.json").write_text(json.dumps(annotations))
    place = ["--path", str(tmp_path / "index")]
    options = [*ingest_options(photo_set, clip_folder, place), "--annotations", str(tmp_path / "hostile.json")]
    code, _, err = call("ingest", *options)
    assert code == 0, err

    url, png = f"http://{bait.host}/secret.png", next(file for file in bait.files if file.endswith(".png"))
    queries = [json.dumps({"text": text, "k": 1, "to": "captions"}) for text in (url, png, "data:image/ hello")]
    queries += ['{"text": "half \\ud83d"}', '{"text": "a\\u0000b"}', json.dumps({"image": url}), "noise"]
    (tmp_path / "queries").write_text("\n".join(queries))
    code, out, _ = call("search", "batch", tmp_path / "queries", *place)
    answers = [json.loads(line) for line in out.splitlines()]
    assert [("hits" in answer) for answer in answers] == [True, True, True, False, False, False, True]
    found = call("search", "text", url, "--plus", png, "--minus", "data:image/png^0.1", "--json", *place)
    assert found[0] == 0, found[2]
    assert "no such file" in one_line_error(call("search", "image", url, *place))
    assert bait.is_untouched()


def test_the_page(bait: Bait, web: Web) -> None:
    with web.client() as client:
        parts = [{"text": text} for text in bait.texts() if len(text) <= 2000]
        for start in range(0, len(parts), 16):  # as many as a query may have
            answer = client.post("/api/search", json={"parts": parts[start : start + 16], "k": 1})
            assert answer.status_code == 200, answer.text
        for text in ('"a\\u0000.png"', '"half \\ud83d"', '"\\udce9"'):
            content = f'{{"parts": [{{"text": {text}}}]}}'
            answer = client.post("/api/search", content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 422
            assert "error" in answer.json()
    assert bait.is_untouched()
