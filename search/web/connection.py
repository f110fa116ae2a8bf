"""Close HTTP/1.1 connections whose client does not send its request within a time limit.

uvicorn closes a connection that is idle between two requests, but waits forever for the rest of a request that has
started: a client that stops, or sends a byte now and then, could keep its connection open indefinitely.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from search.web.protection import HEADERS

MAX_PART_BYTES = 64 * 1024  # of the headers, or between two parts of the body
MAX_PIPELINED = 100  # requests of one connection that wait for the response to an earlier one


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The seconds that a client has to send one request.

    Args:
        silence: the longest pause between two bytes.
        headers: the time for the request line and all headers.
        body: the time for the body; the largest picture takes 600 s at 35 KB/s.
    """

    silence: float = 30.0
    headers: float = 30.0
    body: float = 600.0


def timed_protocol(limits: TimeLimits) -> Any:
    """Return a factory of `TimedProtocol`, for `uvicorn.Config(http=...)`."""
    return partial(TimedProtocol, limits)


class TimedProtocol(HttpToolsProtocol):
    """A connection of uvicorn that answers 408 and closes if a request does not arrive in time."""

    def __init__(self, limits: TimeLimits, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._deadline: float | None = None  # when the part that is being received must be complete
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False  # a first request has begun
        self._bytes = 0  # received since the last part was complete
        self._running: Any = None  # the cycle that is being answered; `self.cycle` is the last one received

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self._limits.headers)
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect(self._limits.headers)  # also if only blank lines arrive, which begin no request
        self._bytes += len(data)
        super().data_received(data)
        if self._bytes > MAX_PART_BYTES:
            self._end(431, "the headers of the request are too large")
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._stop_running()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        self._expect(self._limits.headers)

    def on_headers_complete(self) -> None:
        upgrade = self.parser.should_upgrade()  # if so, the parser takes what follows for another protocol
        if upgrade and any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            self._end(400, "this server speaks HTTP/1.1 only: send the request without the header Upgrade")
            raise ValueError  # so that the parser stops
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        elif len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()
            raise ValueError  # so that the parser stops
        self._bytes = 0
        self._expect(self._limits.body)
        if upgrade:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._bytes = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._bytes = 0
        self._deadline = None

    def on_response_complete(self) -> None:
        if self.pipeline:
            self._running = self.pipeline[-1][0]  # uvicorn starts it now
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, with the same JSON as other failures."""
        if not self.transport.is_closing():
            self._end(400, msg)

    def _expect(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds

    def _set_timer(self) -> None:
        self._cancel_timer()
        if self._deadline is not None and not self.transport.is_closing():
            at = min(self.loop.time() + self._limits.silence, self._deadline)
            self._timer = self.loop.call_at(at, self._on_timeout)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        if self.flow.read_paused:  # the server is not reading: the client is not to blame
            self._timer = self.loop.call_later(self._limits.silence, self._on_timeout)
        elif not self._begun:
            self.transport.abort()  # no request was started
        else:
            self._end(408, "the request was not completed in time")

    def _end(self, status: int, message: str) -> None:
        """Close the connection, after a response if none has been sent."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if not (answering and self.cycle.response_started) and not self.pipeline:
            content = json.dumps({"error": message}).encode()
            headers = {**HEADERS, "Content-Type": "application/json", "Cache-Control": "no-store"}
            headers |= {"Content-Length": str(len(content)), "Connection": "close"}
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.transport.write(STATUS_LINE[status] + lines.encode() + b"\r\n" + content)
        self._stop_running()
        if self.transport.get_write_buffer_size():  # `close` would wait until the client has read it
            self.transport.abort()
        else:
            self.transport.close()

    def _stop_running(self) -> None:
        """Discard what is still to be sent: uvloop raises if a response is written to a closed connection."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
