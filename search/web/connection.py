"""Close HTTP/1.1 connections whose client does not send its request within a time limit.

uvicorn closes a connection that is idle between two requests, but waits forever for the rest of a request that has
started: a client that stops, or sends a byte now and then, could keep its connection open indefinitely.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from search.web.protection import HEADERS


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


class TimedProtocol(H11Protocol):
    """A connection of uvicorn that answers 408 and closes if a request does not arrive in time."""

    def __init__(self, limits: TimeLimits, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._expected: object = None  # the part of a request that is expected next
        self._deadline = 0.0  # when that part must be complete
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP, with the same JSON as other failures."""
        self._end(400, msg)

    def _set_timer(self) -> None:
        self._cancel_timer()
        state = self.conn.their_state
        if state not in (h11.IDLE, h11.SEND_BODY) or self.transport.is_closing():
            return  # the request is complete
        now = self.loop.time()
        if self._expected != (state, self.cycle):
            self._expected = state, self.cycle
            self._deadline = now + (self._limits.body if state is h11.SEND_BODY else self._limits.headers)
        self._timer = self.loop.call_at(min(now + self._limits.silence, self._deadline), self._on_timeout)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        if self.flow.read_paused:  # the server is not reading: the client is not to blame
            self._timer = self.loop.call_later(self._limits.silence, self._on_timeout)
        elif self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.abort()  # no request was started
        else:
            self._end(408, "the request was not completed in time")

    def _end(self, status: int, message: str) -> None:
        """Close the connection, after a response if none has been sent."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps({"error": message}).encode()
            headers = {**HEADERS, "Content-Type": "application/json", "Cache-Control": "no-store"}
            headers |= {"Content-Length": str(len(content)), "Connection": "close"}
            reason = HTTPStatus(status).phrase.encode()
            for event in (
                h11.Response(status_code=status, headers=list(headers.items()), reason=reason),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        if self.transport.get_write_buffer_size():  # `close` would wait until the client has read it
            self.transport.abort()
        else:
            self.transport.close()
