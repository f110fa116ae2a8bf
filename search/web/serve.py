"""Run the web server in one process: open the index, load the model, answer requests, shut down cleanly."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from search.cli.command import note, warn_of_pending, warn_of_silent_nodes
from search.cli.interrupt import INTERRUPTED, ending_on_interrupt
from search.encoder import Encoder
from search.encoder.for_collection import encoder_for
from search.errors import CocoSearchError, SettingsError
from search.index import CollectionSpec, open_for_writing
from search.index.edge.index import EdgeIndex
from search.index.relay.announce import Running, announced
from search.searcher import Searcher
from search.settings import Settings, is_loopback
from search.web.app import create_app
from search.web.connection import TimeLimits, timed_protocol
from search.web.gallery import Gallery
from search.web.metrics import MeasuredEncoder, Metrics, measured_index
from search.web.origins import read_public_url

SHUTDOWN_SECONDS = 10  # how long running requests may still take after SIGINT or SIGTERM
BACKLOG = 512  # connections waiting to be accepted
MAX_OPEN_FILES = 16_384  # connections and files; the usual limit is 1,024


def serve(
    settings: Settings,
    dataset: str | None,
    *,
    host: str,
    port: int,
    public_urls: Sequence[str] = (),
    make_encoder: Callable[[CollectionSpec], Encoder] = encoder_for,
    images: Path | None = None,
    shares_model: bool = True,
    open_browser: bool = False,
) -> None:
    """Serve until SIGINT (raises KeyboardInterrupt) or SIGTERM; running requests finish first.

    Args:
        public_urls: the addresses of the page behind reverse proxies; see `read_public_url`.
        shares_model: `make_encoder` makes the model that made the data set, so that other commands may use it.
        open_browser: show the page in the browser of this machine.

    Raises:
        SettingsError: a public URL is malformed, the port is taken, or the host is not an address of this machine.
        CocoSearchError: the index or the model cannot be opened.
    """
    public = [read_public_url(public_url) for public_url in public_urls]
    with _exiting_despite_threads() as threads, contextlib.ExitStack() as stack:
        _raise_open_file_limit()
        listener = stack.enter_context(_listening(host, port))  # before the model, which is slow to load
        index = open_for_writing(settings)
        warn_of_silent_nodes(index)
        metrics = Metrics()
        searcher = Searcher(
            measured_index(index, metrics),
            dataset,
            encoder=lambda spec: MeasuredEncoder(make_encoder(spec), metrics),
        )
        gallery = Gallery(searcher, images, shared=shares_model)
        stack.callback(gallery.close)
        warn_of_pending(index, [searcher.collection("images"), searcher.collection("captions")])
        with ending_on_interrupt():  # closing the gallery would wait until a model without a text tower is loaded
            gallery.warm_up()
        stack.enter_context(_exiting_on_sigterm())
        local = _address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), listener)
        running = None
        if isinstance(index, EdgeIndex):
            running = Running(local)
            stack.enter_context(announced(index.path, running))
        app = create_app(gallery, host=host, public=public, running=running, metrics=metrics)
        config = uvicorn.Config(
            app,
            http=timed_protocol(TimeLimits()),
            log_level="error",  # its warnings are about clients' mistakes
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        if not is_loopback(host):
            note(f"warning: anyone who can reach {host} can search and see the photos: there are no passwords")
        addresses = " and ".join([_address(host, listener), *map(str, public)])
        message = f"{gallery.dataset} is at {addresses} (press Ctrl-C to stop)"
        threads.append(threading.Thread(target=_load_model, args=[gallery], daemon=True))

        def ready() -> None:
            note(message)
            threads[0].start()
            if open_browser:  # in a thread: a browser may run in this terminal until it is closed
                threading.Thread(target=_open_browser, args=[local], daemon=True).start()

        _Server(config, ready).run([listener])


def _load_model(gallery: Gallery) -> None:
    """Load the model for pictures; texts can be searched without it."""
    try:
        gallery.load_model()
    except CocoSearchError as error:
        note(f"warning: pictures cannot be used as queries: {error}")


def _open_browser(address: str) -> None:
    if not webbrowser.open(address):
        note("cannot open a browser: open that address yourself")


class _Server(uvicorn.Server):
    """A server of uvicorn that calls `ready` once it answers requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


@contextlib.contextmanager
def _exiting_despite_threads() -> Iterator[list[threading.Thread]]:
    """Yield a list of threads; end the process after a signal if one of them is still running.

    The interpreter cannot shut down in order beside a thread that imports a library: it prints tracebacks, or hangs.
    """
    threads: list[threading.Thread] = []
    try:
        yield threads
    except (KeyboardInterrupt, SystemExit) as signalled:
        if any(thread.is_alive() for thread in threads):
            sys.stderr.flush()
            os._exit(INTERRUPTED if isinstance(signalled, KeyboardInterrupt) else 0)
        raise


def _listening(host: str, port: int) -> socket.socket:
    if not host:
        raise SettingsError("--host is empty: give an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        reason = "the port is in use, choose another --port" if in_use else error.strerror
        raise SettingsError(f"cannot listen on {host}, port {port}: {reason}") from None
    except TypeError:  # the name cannot be encoded
        raise SettingsError(f"cannot listen on {host}: it is not a valid host name") from None
    # Headers and body are sent as two packets: without this, the second waits 40 ms for the client's ACK of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _raise_open_file_limit() -> None:
    """Raise the limit of open files of this process: each connection counts as one."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def _address(host: str, listener: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _exiting_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit within this block.

    uvicorn re-raises the signal that stopped it, which would kill the process before the index is closed.
    """

    def exit_(*_: object) -> None:
        raise SystemExit

    previous = signal.signal(signal.SIGTERM, exit_)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
