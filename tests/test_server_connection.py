"""The first contact with a server: what is waited for, what is not, and what each mistake is called."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_qdrant import StandIn, rest_server

from search.errors import ServerError
from search.index.server.index import connect
from search.index.server.rest import Rest
from search.settings import Settings


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for `localhost` that no authority has signed, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "localhost.pem", folder / "localhost.key"
    options = "-newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", "req", "-x509", *options.split(), "-out", str(made), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


@contextmanager
def tls_server(certificate: tuple[Path, Path]) -> Iterator[int]:
    """Run a REST server with TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with rest_server(tls=context) as port:
        yield port


def message(url: str, grpc_port: int | None = None) -> str:
    with pytest.raises(ServerError) as refusal:
        connect(Settings(qdrant_url=url, qdrant_grpc_port=grpc_port))
    assert not refusal.value.transient, refusal.value
    assert "docker compose" not in str(refusal.value)
    with pytest.raises(ServerError) as ours:  # snapshots and the state of a cluster have connections of their own
        Rest(url, Settings()).result("GET", "/cluster")
    assert str(ours.value).partition("(")[0] == str(refusal.value).partition("(")[0]
    return str(refusal.value)


def test_certificates(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_server(certificate) as port:
        unknown = message(f"https://localhost:{port}")
        assert "cannot be verified" in unknown
        assert "SSL_CERT_FILE (REST) and GRPC_DEFAULT_SSL_ROOTS_FILE_PATH (gRPC)" in unknown
        assert "uses TLS: use https:// instead" in message(f"http://localhost:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert "was issued for another host name" in message(f"https://127.0.0.1:{port}")
        index = connect(Settings(qdrant_url=f"https://localhost:{port}", qdrant_grpc_port=1))
        assert "REST" in index.engine
        assert index.silent_nodes() == []
        index.close()


def test_a_scheme_that_does_not_match() -> None:
    with rest_server() as port:
        assert "does not use TLS: use http:// instead" in message(f"https://localhost:{port}")


def test_a_host_that_does_not_exist() -> None:
    assert "the host nowhere.invalid does not exist" in message("http://nowhere.invalid:6333")


def test_name_resolution_is_retried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("search.index.retry.FIRST_CONTACT_SECONDS", 10.0)
    look_up, failures = socket.getaddrinfo, [socket.gaierror(socket.EAI_AGAIN, "Temporary failure")]

    def flaky(*args: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return look_up(*args, **more)

    with rest_server() as port:
        monkeypatch.setattr("socket.getaddrinfo", flaky)
        index = connect(Settings(qdrant_url=f"http://localhost:{port}", qdrant_grpc_port=1))
        assert index.collections() == []
        index.close()
    notice = capsys.readouterr().err
    assert "localhost cannot be resolved at the moment (Temporary failure); retrying for 10 seconds" in notice


def test_both_variables_make_both_connections_work(certificate: tuple[Path, Path]) -> None:
    pair = (certificate[1].read_bytes(), certificate[0].read_bytes())
    server = StandIn(tls=grpc.ssl_server_credentials([pair]))
    # gRPC reads its variable once, so each case has a process of its own.
    with tls_server(certificate) as port:
        command = [sys.executable, "-m", "ingest", "status", "--url", f"https://localhost:{port}"]
        both = {"SSL_CERT_FILE": str(certificate[0]), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificate[0])}
        ends = []
        for names in (["SSL_CERT_FILE"], list(both)):
            variables = {name: both[name] for name in names}
            environment = {**os.environ, "QDRANT_GRPC_PORT": str(server.port), **variables}
            ends.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=False))
    server.stop()
    alone, together = ends
    assert alone.returncode == 1
    assert "gRPC port) cannot be verified" in alone.stderr, alone.stderr
    assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in alone.stderr
    assert together.returncode == 0, together.stderr
    assert "gRPC)" in together.stdout


def test_a_starting_server_is_retried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("search.index.retry.FIRST_CONTACT_SECONDS", 10.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    up = threading.Event()

    def start() -> None:
        time.sleep(0.4)
        with rest_server(port=port):
            up.wait(20)

    thread = threading.Thread(target=start)
    thread.start()
    index = connect(Settings(qdrant_url=f"http://127.0.0.1:{port}", qdrant_grpc_port=1))
    assert index.collections() == []
    index.close()
    up.set()
    thread.join()
    assert capsys.readouterr().err.count("no Qdrant server answers") == 1
