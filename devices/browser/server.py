"""The HTTP server that gives a browser the page, onnxruntime-web and the jobs, with the standard library alone.

Nothing is answered without the one-time token or the secret that it was exchanged for, with one and the same answer for everything else. Paths
are looked up in tables and never joined to a folder. Every body has a length and a limit, every connection a time limit, and there are only so
many of them. The headers isolate the page from other origins, which is also what gives it threads and a clock of 5 us:
https://developer.mozilla.org/en-US/docs/Web/API/Window/crossOriginIsolated.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from kdedge.devices.browser import fetch
from kdedge.devices.browser.access import Access, cookie_name, host_is_ours, origin_is_ours, secret_in
from kdedge.devices.browser.desk import Desk, Replaced, Stale
from kdedge.errors import DeviceError
from kdedge.runtimes.errors import RuntimeFailure

PAGE = Path(__file__).parent / "page"
LONG_POLL = 10.0
_SMALL, _LARGE = 256 << 10, 64 << 20
_SECONDS = 30.0
_CONNECTIONS = 48
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".wasm": "application/wasm"}
_PAGE_FILES = {"/": "index.html", **{f"/{name}": name for name in ("main.js", "worker.js", "npy.js", "style.css")}}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "screen-wake-lock=(self), cross-origin-isolated=(self), camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Served:
    """What a server gives out and to whom."""

    desk: Desk
    access: Access
    runtime: fetch.WebRuntime
    bound: str
    scheme: str


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], family: int) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, _Handler)
        self.served: Served

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke, or was no HTTP (or TLS): nobody is there to be told."""


class PageServer:
    """A server that runs in a thread until `close`."""

    def __init__(self, served: Served, server: _Server) -> None:
        self.served = served
        self._server = server
        self.port: int = server.server_address[1]
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="kdedge-browser", daemon=True)
        self._thread.start()

    def address(self, host: str = "") -> str:
        """Where a page may connect, once: with the token of now. `host`: how the other machine calls this one."""
        name = host or self.served.bound
        return f"{self.served.scheme}://{f'[{name}]' if ':' in name else name}:{self.port}/open/{self.served.access.token}"

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def start(
    desk: Desk, runtime: fetch.WebRuntime, bind: str = "127.0.0.1", port: int = 0, access: Access | None = None, tls: tuple[Path, Path] | None = None
) -> PageServer:
    """Start a server. `port` 0: any free one. `tls`: certificate and key, for a page on another machine that shall have threads and WebGPU.

    Raises:
        DeviceError: it cannot listen there, or the certificate cannot be read.
    """
    try:
        family = AF_INET6 if ip_address(bind).version == 6 else AF_INET
    except ValueError:
        family = AF_INET  # a name
    try:
        server = _Server((bind, port), family)
    except (OSError, OverflowError) as error:
        raise DeviceError(f"cannot listen on {bind}, port {port}: {error}") from error
    if tls is not None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
        except (OSError, ssl.SSLError) as error:
            server.server_close()
            raise DeviceError(f"the certificate {tls[0]} with the key {tls[1]} cannot be used: {error}") from error
        # The handshake belongs to the connection's own thread: a client that never finishes it must not hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.served = Served(desk, access or Access(), runtime, bind, "http" if tls is None else "https")
    return PageServer(server.served, server)


class _Refused(Exception):
    """Answered as if there were nothing here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS
    wbufsize = 1 << 16  # head and body in one packet: in two, the second waits 40 ms for the first one's acknowledgement
    disable_nagle_algorithm = True
    server_version, sys_version = "kdedge", ""
    server: _Server

    def do_GET(self) -> None:
        try:
            self._check_host()
            path = urlsplit(self.path).path
            if path.startswith("/open/"):
                self._open(path.removeprefix("/open/"))
                return
            self._secret()
            if path in _PAGE_FILES:
                self._send_file(PAGE / _PAGE_FILES[path], cached=False)
            elif path.startswith("/runtime/") and path.removeprefix("/runtime/") in fetch.FILES:
                self._send_file(self.server.served.runtime.folder / path.removeprefix("/runtime/"), cached=True)
            else:
                raise _Refused
        except _Refused:
            self._nothing()

    def do_POST(self) -> None:
        try:
            self._check_host()
            secret = self._secret()
            if not origin_is_ours(self.headers.get("Origin"), self.headers.get("Host", ""), self.server.served.scheme):
                raise _Refused
            url = urlsplit(self.path)
            body = self._body(_LARGE if url.path.startswith("/api/jobs/") else _SMALL)
            self._answer(secret, url.path.split("/")[2:] if url.path.startswith("/api/") else [], dict(parse_qsl(url.query)), body)
        except _Refused:
            self._nothing()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses (another method, a malformed line) is answered like everything else that is refused."""
        self._nothing()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: a path may hold a token."""

    # Who asks.

    def _check_host(self) -> None:
        if not host_is_ours(self.headers.get("Host", ""), self.server.served.bound):
            raise _Refused

    def _secret(self) -> str:
        secret = secret_in(self.headers.get("Cookie", ""), cookie_name(self.server.server_address[1]))
        if not self.server.served.access.known(secret):
            raise _Refused
        return secret

    def _open(self, token: str) -> None:
        served = self.server.served
        with contextlib.suppress(_Refused):
            self._secret()
            self._redirect({})  # somebody reloads the address that the page came from
            return
        secret = served.access.exchange(token)
        if secret is None:
            raise _Refused
        secure = "; Secure" if served.scheme == "https" else ""
        self._redirect({"Set-Cookie": f"{cookie_name(self.server.server_address[1])}={secret}; Path=/; HttpOnly; SameSite=Lax{secure}"})

    # What it gets.

    def _answer(self, secret: str, parts: list[str], query: Mapping[str, str], body: bytes) -> None:
        desk, load = self.server.served.desk, self.headers.get("X-Load", "")[:64]
        try:
            match parts:
                case ["hello"]:
                    name = desk.greet(secret, load, _json(body))
                    self._send_json({"name": name, "version": self.server.served.runtime.version})
                case ["next"]:
                    self._send_json({"job": desk.next(secret, load, LONG_POLL)})
                case ["jobs", job, attempt, "files", number]:
                    self._send_file(desk.file(secret, load, job, _count(attempt), _count(number)), cached=False)
                case ["jobs", job, attempt, "beat"]:
                    desk.beat(secret, load, job, _count(attempt), str(_json(body).get("note", "")))
                    self._send_json({})
                case ["jobs", job, attempt, "result"]:
                    self._send_json({"status": desk.finish(secret, load, job, _count(attempt), _json(body))})
                case ["jobs", job, attempt, *what]:
                    desk.deliver(secret, load, job, _count(attempt), what, query, body)
                    self._send_json({})
                case _:
                    raise _Refused
        except Replaced:
            self._send_json({"error": "replaced"}, 409)
        except Stale:
            self._send_json({"error": "stale"}, 410)
        except RuntimeFailure as error:
            self._send_json({"error": str(error)[:600]}, 400)

    def _body(self, limit: int) -> bytes:
        """The body; refused without reading where it has no length or too much of it."""
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit() and len(length) < 12) or int(length) > limit:
            raise _Refused
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise _Refused
        return body

    def _send_file(self, path: Path, cached: bool) -> None:
        try:
            handle = path.open("rb")
        except OSError:
            raise _Refused from None
        with handle:
            size = handle.seek(0, 2)
            handle.seek(0)
            # The runtime is the same for as long as the server lives; a launch must not wait for its download.
            self._head(200, size, _TYPES.get(path.suffix, "application/octet-stream"), "private, max-age=3600" if cached else "no-store")
            shutil.copyfileobj(handle, self.wfile, 1 << 20)

    def _send_json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self._head(status, len(body), "application/json", "no-store")
        self.wfile.write(body)

    def _redirect(self, more: Mapping[str, str]) -> None:
        self._head(303, 0, "text/plain", "no-store", {"Location": "/", **more})

    def _nothing(self) -> None:
        # What was not read of a body would be taken for the next request.
        self.close_connection = True
        body = b"nothing here: open the address that kdedge printed last\n"
        with contextlib.suppress(OSError):
            self._head(404, len(body), "text/plain; charset=utf-8", "no-store", {"Connection": "close"})
            self.wfile.write(body)

    def _head(self, status: int, length: int, kind: str, caching: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(length), "Cache-Control": caching, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise _Refused from None
    if not isinstance(value, dict):
        raise _Refused
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise _Refused
    return int(text)
