"""HTTP on loopback: connections, bodies, and what faults do to them."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import socket
import threading
import time
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from linzoo.testing.fake_hub.faults import Fault, Faults
from linzoo.testing.fake_hub.log import Log, Request
from linzoo.testing.fake_hub.messages import PIECE, Answer, Body, Call, FilePart, HttpError
from linzoo.testing.fake_hub.routes import answer
from linzoo.testing.fake_hub.state import State

_SLOW_PIECES = 16
_SLOW_PAUSE = 0.001  # seconds


class Server(http.server.ThreadingHTTPServer):
    """Serves both the Hub and its storage, which differ by the name of the host alone."""

    request_queue_size = 128
    daemon_threads = False  # so that closing waits for them

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults = Faults()
        self.log = Log()
        self.state: State
        self.numbers = itertools.count(1)
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def start(self, state: State) -> None:
        """Serve, in a thread."""
        self.state = state
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and wait until no thread is left."""
        self.faults.clear()
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember a connection, which lives as long as its client wants."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "fake-hub"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: what was asked is in the log of the Hub."""

    def _serve(self) -> None:
        address = urlsplit(self.path)
        place = self.server.log.open()
        fault = self.server.faults.strike(self.command, unquote(address.path))
        call = Call(
            self.server.state,
            self.command,
            address.path,
            parse_qs(address.query),
            self.headers,
            Body(self.rfile, self.headers),
            token=self.headers.get("Authorization", "").removeprefix("Bearer ") or None,
        )
        self._status = self._sent = 0
        try:
            reply = self._answer(call, fault)
            call.body.drain()
            self._reply(reply, fault)
        except ConnectionError:  # the client has left
            self.close_connection = True
        finally:
            self.server.log.close(place, self._request(call, fault))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _request(self, call: Call, fault: Fault | None) -> Request:
        return Request(
            method=self.command,
            path=unquote(call.path),
            query=self.path.partition("?")[2],
            host=self.headers.get("Host", "").rpartition(":")[0],
            status=self._status,
            received=call.body.received,
            sent=self._sent,
            authorization=call.token,
            range=self.headers.get("Range"),
            fault=fault.kind if fault else None,
        )

    def _answer(self, call: Call, fault: Fault | None) -> Answer:
        """What a request is answered, of which a fault may then let less arrive."""
        kind = fault.kind if fault else None
        if kind == "drop-before":
            return Answer()
        if kind == "redirect":
            state = self.server.state
            elsewhere = state.url if state.cdn_url.endswith(self.headers.get("Host", "")) else state.cdn_url
            return Answer(307, headers={"Location": elsewhere + self.path})
        if fault is not None and kind == "status":
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return HttpError(fault.status, "A fault that the test has injected", headers=headers).answer()
        return answer(call)

    def _reply(self, answer: Answer, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        if kind in ("drop-before", "drop-after", "cut-body"):
            self.close_connection = True
        if kind in ("drop-before", "drop-after"):
            return
        self._status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.length))
        self.send_header("X-Request-Id", f"fake-{next(self.server.numbers)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut-body":
            self._send(answer.body, 0, answer.length // 2)
        elif fault is not None and kind == "slow-body":
            self._send_slowly(answer, fault)
        else:
            self._send(answer.body, 0, answer.length)

    def _send_slowly(self, answer: Answer, fault: Fault) -> None:
        places = [answer.length * piece // _SLOW_PIECES for piece in range(_SLOW_PIECES + 1)]
        for number, (start, stop) in enumerate(itertools.pairwise(places)):
            if number == _SLOW_PIECES // 2 and fault.release is not None:
                fault.release.wait()
            time.sleep(_SLOW_PAUSE)
            self._send(answer.body, start, stop)

    def _send(self, body: bytes | FilePart, start: int, stop: int) -> None:
        """Send a piece of a body, and count what has gone even if the client leaves."""
        if isinstance(body, bytes):
            for place in range(start, stop, PIECE):
                piece = body[place : min(place + PIECE, stop)]
                self.connection.sendall(piece)
                self._sent += len(piece)
            return
        with body.path.open("rb") as file:
            first = body.start + start
            try:
                if stop > start:
                    self.connection.sendfile(file, first, stop - start)
            finally:
                self._sent += max(file.tell() - first, 0)
