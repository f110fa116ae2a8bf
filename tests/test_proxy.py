"""Test the page behind nginx and Caddy, with the configurations in docs/web.md."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from running_web import PUBLIC, Web

PAGE = (Path(__file__).parents[1] / "docs/web.md").read_text()
HOST = urlsplit(PUBLIC).netloc
NGINX = """
daemon off;
{user}
pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/photos.conf;
}}
"""


def example(language: str) -> str:
    """Return the first example of docs/web.md in this language."""
    match = re.search(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert match
    return match[1]


def uncommented(text: str, *starts: str) -> str:
    """Return the configuration with the lines uncommented that begin with one of `starts`."""
    for start in starts:
        assert f"# {start}" in text
        text = text.replace(f"# {start}", start)
    return text


@dataclass(frozen=True)
class Files:
    """The folder of a proxy's files, and the ports that replace 80, 443 and 8000."""

    folder: Path
    plain: int
    tls: int
    upstream: int

    def placed(self, text: str) -> str:
        replaced = text.replace("/etc/ssl/photos", str(self.folder)).replace("/etc/nginx", str(self.folder))
        assert "127.0.0.1:8000" in replaced
        return replaced.replace("127.0.0.1:8000", f"127.0.0.1:{self.upstream}")


def nginx(files: Files, passwords: bool) -> list[str]:
    text = files.placed(example("nginx"))
    text = text.replace("listen 80;", f"listen 127.0.0.1:{files.plain};")
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{files.tls} ssl;")
    if passwords:
        text = uncommented(text, "auth_basic  ", "auth_basic_user_file")
        (files.folder / "photos.htpasswd").write_text("anna:{PLAIN}secret\n")
    (files.folder / "photos.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""  # the folder is this user's
    (files.folder / "nginx.conf").write_text(NGINX.format(folder=files.folder, user=user))
    return ["-e", "stderr", "-p", str(files.folder), "-c", str(files.folder / "nginx.conf")]


def caddy(files: Files, passwords: bool) -> list[str]:
    text = uncommented(files.placed(example("caddy")), "tls ")
    ports = f"admin off\n    http_port {files.plain}\n    https_port {files.tls}\n    default_bind 127.0.0.1\n"
    text = text.replace("{\n", f"{{\n    {ports}", 1)
    if passwords:
        hashed = subprocess.check_output(["caddy", "hash-password", "--plaintext", "secret"], text=True).strip()
        text = re.sub(r"# (basicauth \{\n *)# +(anna )HASH(\n *)# \}", rf"\1\2{hashed}\3}}", text)
        assert hashed in text
    (files.folder / "Caddyfile").write_text(text)
    return ["run", "--config", str(files.folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed certificate and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH, to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    files = ["-keyout", f"{folder}/privkey.pem", "-out", f"{folder}/fullchain.pem"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run(["openssl", "req", *kind, *files, *name], check=True, capture_output=True)
    return folder


@contextmanager
def proxied(program: str, arguments: list[str], files: Files) -> Iterator[httpx.Client]:
    """Yield a client of the proxy that resolves the public name to 127.0.0.1."""
    folders = {name: str(files.folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    with (files.folder / "log").open("w") as log:
        process = subprocess.Popen([program, *arguments], stdout=log, stderr=log, env={**os.environ, **folders})
    try:
        deadline = time.monotonic() + 20
        while not answers(files.tls):
            assert process.poll() is None, (files.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        trusted = ssl.create_default_context(cafile=str(files.folder / "fullchain.pem"))
        with httpx.Client(
            base_url=f"https://127.0.0.1:{files.tls}", verify=trusted, timeout=60, headers={"Host": HOST}
        ) as client:
            client.event_hooks["request"].append(lambda request: request.extensions.update(sni_hostname=HOST))
            yield client
    finally:
        process.terminate()
        process.wait(20)


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("configure", [nginx, caddy])
def test_the_examples_work(
    configure: Callable[[Files, bool], list[str]], web: Web, certificate: Path, tmp_path: Path
) -> None:
    program = shutil.which(configure.__name__, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"no {configure.__name__} on PATH")
    for name in ("fullchain.pem", "privkey.pem"):
        shutil.copy(certificate / name, tmp_path)
    files = Files(tmp_path, free_port(), free_port(), urlsplit(web.address).port or 0)
    question = {"parts": [{"text": "noise"}], "k": 3}
    own = {"Origin": PUBLIC}
    with proxied(program, configure(files, False), files) as client:
        assert client.get("/").text == httpx.get(web.address).text
        first = client.post("/api/search", json=question, headers=own)
        assert first.json() == httpx.post(f"{web.address}/api/search", json=question, timeout=60).json()
        picture = client.get(first.json()["results"][0]["picture"])
        assert picture.headers["content-type"] == "image/jpeg"
        assert client.head("/healthz").status_code == 200
        photo = (web.photos / "images/val2014/COCO_val2014_000000000105.jpg").read_bytes()
        padded = photo + bytes(19_000_000)  # nearly the largest size allowed; the bytes after the JPEG are not read
        sent = client.post("/api/pictures", content=padded, headers={**own, "Content-Type": "image/jpeg"})
        assert list(sent.json()) == ["picture"]
        for origin in ("https://evil.example", PUBLIC.replace("https", "http"), "null"):
            assert client.post("/api/search", json=question, headers={"Origin": origin}).status_code == 403
        assert client.get("/metrics").status_code == 404
        redirect = httpx.get(f"http://127.0.0.1:{files.plain}/?q=noise", headers={"Host": HOST})
        assert redirect.headers["location"].startswith(PUBLIC)
    with proxied(program, configure(files, True), files) as client:
        assert client.post("/api/search", json=question, headers=own).status_code == 401
        known = client.post("/api/search", json=question, headers=own, auth=("anna", "secret"))
        assert known.json() == first.json()
