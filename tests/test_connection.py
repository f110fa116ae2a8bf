"""Test the time limits for sending a request, with limits of a few seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from search.web.connection import TimeLimits, timed_protocol

LIMITS = TimeLimits(silence=1.0, headers=1.5, body=2.0)
HEADERS = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


async def echo(_: Scope, receive: Receive, send: Send) -> None:
    """Respond with the length of the body."""
    length, more = 0, True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
    content = str(length).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server that runs in a thread."""
    config = uvicorn.Config(echo, http=timed_protocol(LIMITS), log_level="error", lifespan="off", timeout_keep_alive=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def talk(port: int, *parts: bytes, pause: float = 0.0) -> tuple[bytes, float]:
    """Send the parts, pausing after each; return what is received until the server disconnects, and the seconds."""
    began = time.monotonic()
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while received := connection.recv(65536):
                answer += received
        except ConnectionError:
            pass
    return answer, time.monotonic() - began


INCOMPLETE = [
    (b"", b""),
    (b"POST / HT", b"408"),
    (HEADERS, b"408"),
    (HEADERS + b"Content-Length: 10\r\n\r\n", b"408"),
    (HEADERS + b"Content-Length: 10\r\n\r\n12345", b"408"),
    (HEADERS + b"Transfer-Encoding: chunked\r\n\r\n5\r\n123", b"408"),
    (HEADERS + b"Content-Length: 2\r\n\r\nab" + HEADERS, b"200"),
    (HEADERS + b"Content-Length: 2\r\n\r\nab\r\n\r\n", b"200"),  # blank lines: no request begins
    (b"\x16\x03\x01 no HTTP\r\n\r\n", b"400"),
    (HEADERS + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),  # two servers could disagree
    (HEADERS + b"Content-Length: 2\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nab", b"400"),
]


def test_incomplete_requests_time_out(port: int) -> None:
    with ThreadPoolExecutor(len(INCOMPLETE)) as clients:
        answers = list(clients.map(lambda case: talk(port, case[0]), INCOMPLETE))
    for (sent, status), (answer, seconds) in zip(INCOMPLETE, answers, strict=True):
        assert answer[9:12] == status, sent
        if status == b"408":
            assert seconds > 0.9 * LIMITS.silence
            assert answer.endswith(b'{"error": "the request was not completed in time"}')


def test_a_trickle_is_stopped_but_a_slow_client_is_not(port: int) -> None:
    headers = [b"POST / HTTP/1.1\r\n", *[b"X-More: x\r\n"] * 30]
    body = [HEADERS + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 30]
    slow = [HEADERS, b"Connection: close\r\nContent-Length: 3\r\n\r\n", b"a", b"b", b"c"]
    with ThreadPoolExecutor(3) as clients:
        answers = list(clients.map(lambda parts: talk(port, *parts, pause=0.3), [headers, body, slow]))
    assert max(seconds for _, seconds in answers) < 6  # sending everything would take 9
    assert answers[2][0].startswith(b"HTTP/1.1 200")
    assert answers[2][0].endswith(b"3")
    assert answers[2][1] > LIMITS.silence


CHUNKED = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"


@pytest.mark.parametrize("start", [HEADERS + b"X: ", HEADERS, CHUNKED + b"0\r\n", CHUNKED + b"2;"])
def test_headers_without_an_end_use_no_memory(port: int, start: bytes) -> None:
    line = b"x" * 1000 if start.endswith((b" ", b";")) else b"X: " + b"x" * 995 + b"\r\n"
    _, seconds = talk(port, start, *[line * 300] * 4, pause=0.05)
    assert seconds < 0.9 * LIMITS.silence


def test_many_stuck_connections(port: int) -> None:
    """All stuck connections are closed, and other clients are answered in the meantime."""
    stuck = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(200)]
    for number, connection in enumerate(stuck):
        connection.sendall(HEADERS[: 10 * (number % 4)])
    answer, _ = talk(port, HEADERS + b"Connection: close\r\nContent-Length: 2\r\n\r\nab")
    assert answer.startswith(b"HTTP/1.1 200")
    for connection in stuck:
        while connection.recv(4096):
            pass
        connection.close()
