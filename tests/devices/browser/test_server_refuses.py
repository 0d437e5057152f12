"""What another machine (another user, a foreign page in the same browser) can do without the token: nothing. With it: only a page's work."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from page_client import Answer, PageClient

from kdedge.devices.browser import fetch, server
from kdedge.devices.browser.access import Access, host_is_ours
from kdedge.devices.browser.desk import Desk
from kdedge.errors import DeviceError

NOTHING = b"nothing here: open the address that kdedge printed last\n"
PATHS = (
    "/",
    "/index.html",
    "/main.js",
    "/worker.js",
    "/open/",
    "/open/x",
    "/open",
    "/runtime/ort.wasm.min.mjs",
    "/favicon.ico",
    "/api/next",
    "*",
    "/.git",
)
HOSTILE = (
    *("/../server.py", "/page/../server.py", "/..%2fserver.py", "/%2e%2e/server.py", "//etc/passwd", "/etc/passwd", "/runtime/../package.json"),
    *(
        "/runtime/package.json",
        "/runtime/",
        "/runtime/..%2f..%2fx.npy",
        "/runtime/ort.wasm.min.mjs/",
        "/runtime//ort.wasm.min.mjs",
        "/main.js%00.html",
    ),
    *("/main.js\\", "/./main.js", "/api/jobs/x/1/files/0", "/" + "a" * 60000, "http://elsewhere.example/", "/index.html", "/server.py", "/page"),
)


def refused(answer: Answer) -> bool:
    """Every refusal is the same to the byte, so it tells nothing."""
    return (answer.status, answer.body) == (404, NOTHING) and answer.headers["connection"] == "close"


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_without_the_token_every_path_is_nothing(world: Any, method: str) -> None:
    stranger = PageClient(world.server.port)
    for path in (*PATHS, *HOSTILE):
        for cookie in ("", "kdedge_1=x", f"kdedge_{world.server.port}=", f"kdedge_{world.server.port}={'x' * 43}", "=;=,\x7f", 'a="'):
            stranger.cookie = cookie
            answer = stranger.ask(method, path, b"{}" if method == "POST" else None)
            assert answer.status == 404, (method, path, cookie)
            assert method == "HEAD" or refused(answer), (method, path, cookie)
    assert world.desk.pages() == []


def test_a_token_opens_one_page_once_and_the_next_token_is_another(world: Any) -> None:
    address = world.server.address()
    path = address[address.index("/open/") :]
    stranger = PageClient(world.server.port)
    for wrong in (path[:-1], path + "x", path[:-1] + ("a" if path[-1] != "a" else "b"), path.upper(), path + "/", "/open/%C3%A9"):
        assert refused(stranger.ask("GET", wrong))
    page = PageClient.opened(address)
    assert refused(stranger.ask("GET", path))
    assert world.server.address() != address
    # The page itself may load the address again: it is sent on by its cookie.
    again = page.ask("GET", path)
    assert (again.status, again.headers["location"]) == (303, "/")
    assert "set-cookie" not in again.headers


def test_the_secret_is_kept_from_scripts_and_other_sites(world: Any) -> None:
    address = world.server.address()
    answer = PageClient(world.server.port).ask("GET", address[address.index("/open/") :])
    assert answer.headers["set-cookie"].split("; ")[1:] == ["Path=/", "HttpOnly", "SameSite=Lax"]
    assert len(answer.headers["set-cookie"].split(";")[0].split("=")[1]) >= 43  # 256 bits


@pytest.mark.parametrize("path", HOSTILE)
def test_with_the_secret_only_the_pages_own_files_are_given(world: Any, path: str) -> None:
    page = world.page()
    assert refused(page.ask("GET", path))


def test_the_page_and_its_runtime_are_given_whole(world: Any) -> None:
    page = world.page()
    folder = Path(server.__file__).parent / "page"
    assert page.ask("GET", "/").body == (folder / "index.html").read_bytes()
    given = {path.name for path in folder.iterdir() if page.ask("GET", f"/{path.name}").status == 200}
    assert given | {"index.html"} == {path.name for path in folder.iterdir()}
    for name in fetch.FILES:
        answer = page.ask("GET", f"/runtime/{name}")
        assert answer.body.decode() == f"stands in for {name}"
        assert answer.headers["content-type"] == ("application/wasm" if name.endswith(".wasm") else "text/javascript")


def test_every_answer_isolates_the_page_and_none_opens_it_to_other_origins(world: Any) -> None:
    page, stranger = world.page(), PageClient(world.server.port)
    address = world.server.address()
    answers = [page.ask("GET", "/"), page.ask("GET", "/nothing"), stranger.ask("GET", "/"), page.api("next"), page.api("jobs/1/1/beat")]
    answers += [stranger.ask("GET", address[address.index("/open/") :], headers={"Origin": "http://evil.example"})]
    for answer in answers:
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["server"].strip() == "kdedge"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:{port}", "http://localhost:{port}"])
def test_a_foreign_page_cannot_post_with_the_users_cookie(world: Any, origin: str) -> None:
    page = world.page()
    assert refused(page.ask("POST", "/api/next", b"{}", {"Origin": origin.format(port=world.server.port)}))
    assert page.ask("POST", "/api/next", b"{}", {"Origin": f"http://127.0.0.1:{world.server.port}"}).status == 200


def test_a_foreign_name_pointed_at_this_machine_gets_nothing(world: Any) -> None:
    page = world.page()
    for host in (f"evil.example:{world.server.port}", "evil.example", "192.168.1.7", "[", "127.0.0.1.evil.example", "localhost.evil.example"):
        page.host = host
        assert refused(page.ask("GET", "/")), host
    page.host = f"localhost:{world.server.port}"
    assert page.ask("GET", "/").status == 200


@pytest.mark.parametrize(
    ("host", "bound", "ours"),
    [
        ("192.168.1.7:8765", "192.168.1.7", True),
        ("192.168.1.8:8765", "192.168.1.7", False),
        ("192.168.1.8:8765", "0.0.0.0", True),
        ("evil.example:8765", "0.0.0.0", False),
        ("[::1]:8765", "127.0.0.1", True),
        ("[fe80::1]:8765", "::", True),
        ("box.local:8765", "box.local", True),
        ("", "127.0.0.1", False),
    ],
)
def test_hosts_by_what_the_server_is_bound_to(host: str, bound: str, ours: bool) -> None:
    assert host_is_ours(host, bound) is ours


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "999999999999"},
        {"Content-Length": "-1"},
        {"Content-Length": "1_0"},
        {"Content-Length": "+2"},
        {"Content-Length": "9" * 5000},
        {"Content-Length": ""},
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": str((256 << 10) + 1)},
    ],
)
def test_a_body_without_an_honest_length_within_the_limit_is_not_read(world: Any, headers: dict[str, str]) -> None:
    page = world.page()
    assert refused(page.ask("POST", "/api/hello", b"", headers))


@pytest.mark.parametrize("body", [b"[", b"[1]", b"\xff", b"[" * 100000, b'"x"', b"null"])
def test_a_body_that_is_no_object_is_refused(world: Any, body: bytes) -> None:
    assert refused(world.page().ask("POST", "/api/hello", body))


def test_a_page_sees_and_answers_only_its_own_job_and_only_while_it_has_it(world: Any) -> None:
    mine, other = world.page(), world.page()
    waiting = world.run(world.job())
    job = mine.next()
    for path in ("files/0", "beat", "trace", "samples/warmup", "result"):
        assert other.at(job, path).status == 410, path
    assert mine.at(job, "files/2").status == 410
    assert refused(mine.at(job, "files/-1"))
    assert refused(mine.at({**job, "attempt": "1e3"}, "beat"))
    assert mine.at({**job, "attempt": 2}, "files/0").status == 410
    assert mine.at(job, "anything/else").status == 410
    mine.rows(job, np.zeros((5, 1), np.float32))
    mine.finish(job)
    assert waiting.result(20).status == "ok"
    assert mine.at(job, "files/0").status == 410
    assert mine.finish(job).status == 410


@pytest.mark.parametrize(
    ("query", "body", "said"),
    [
        ("name=y&dtype=object&shape=1", b"x" * 8, "is no array of numbers"),
        ("name=y&dtype=float32&shape=2,2", b"x" * 15, "has 15 bytes, which is not float32[2, 2]"),
        ("name=y&dtype=float32&shape=-2,2", b"x" * 8, None),  # a shape of other words is cut to what is a number
        ("name=y&dtype=float32&shape=", b"", "is no array of numbers"),
        ("name=y&dtype=float32&shape=1,2000000000", b"x", "has 1 bytes"),
        ("name=y", b"", "is no array of numbers"),
        ("name=y&dtype=float32&shape=0,99999999999999999999", b"", "is no array of numbers"),
        (f"name=y&dtype=float32&shape=1,{'9' * 5000}", b"x", "is no array of numbers"),
    ],
)
def test_rows_that_are_none_are_refused(world: Any, query: str, body: bytes, said: str | None) -> None:
    page = world.page()
    world.run(world.job())
    job = page.next()
    answer = page.at(job, f"outputs/0?{query}", body)
    assert answer.status == (200 if said is None else 400)
    assert said is None or said in answer.json["error"]
    for bucket in ("1", "99999999999", "-1", "x"):
        assert page.at(job, f"outputs/{bucket}?name=y&dtype=float32&shape=1", b"1234").status in (400, 410)
    page.finish(job, status="failed")


@pytest.mark.parametrize(
    ("rows", "trace", "said", "reason"),
    [
        (4, b"", {}, "output `y` has 4 rows where 5 examples went in"),
        (6, b"", {}, "output `y` has 6 rows where 5 examples went in"),
        (0, b"", {}, "the page delivered the outputs of 0 of 1 buckets"),
        (5, b"{", {}, "the page's trace of what it executed cannot be read"),
        (5, b'[{"cat": "Node", "name": "a_kernel_time"}]', {}, "the page's trace of what it executed cannot be read"),
        (5, b"[" * 100_000, {}, "the page's trace of what it executed cannot be read"),
        (5, b"[1]", {}, "the page's trace of what it executed cannot be read"),
        (5, b"", {"status": "fine"}, "the page says neither ok, failed nor not-run"),
        (5, b"", {"status": ["ok"]}, "the page says neither ok, failed nor not-run"),
        (0, b"", {"status": "failed", "reason": "a\nb " + "x" * 9000}, "a b xxx"),
    ],
)
def test_what_a_page_says_is_checked_against_what_it_delivered(world: Any, rows: int, trace: bytes, said: dict[str, Any], reason: str) -> None:
    page, waiting = world.page(), world.run(world.job())
    job = page.next()
    if rows:
        assert page.rows(job, np.zeros((rows, 1), np.float32)).status == 200
    if trace:
        assert page.at(job, "trace", trace).status == 200
    assert page.finish(job, **said).json == {"status": "failed"}
    result = waiting.result(20)
    assert result.status == "failed"
    assert result.reason.startswith(reason)
    assert len(result.reason) <= 600


def test_numbers_that_are_none_are_not_taken(world: Any) -> None:
    page, waiting = world.page(), world.run(world.job())
    job = page.next()
    page.rows(job, np.zeros((5, 1), np.float32))
    assert page.finish(job, load_ms="NaN", first_inference_ms=-1, facts=["x"], evidence={"a": float("nan"), "hidden_ms": 0}).json == {"status": "ok"}
    result = waiting.result(20)
    assert (result.load_ms, result.first_inference_ms, result.evidence, result.facts) == (None, None, {}, {"executed": {}})


@given(name=st.text(max_size=30) | st.sampled_from(["../../x", "/etc/passwd", "..", "CON", "a/b", "a\0b"]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_name_of_an_output_never_steers_a_path(world: Any, name: str) -> None:
    page = PageClient.opened(world.server.address()) if not world.desk.pages() else world.first
    world.first = page
    waiting = world.run(world.job())
    job = page.next()
    assert page.rows(job, np.zeros((5, 1), np.float32), name=name).status == 200
    page.finish(job)
    (paths,) = waiting.result(20).outputs
    assert list(paths.values()) == ["outputs/0/output-0.npy"]


def test_more_pages_than_a_household_has_are_refused() -> None:
    access = Access()
    assert len({access.exchange(access.token) for _ in range(32)}) == 32
    assert access.exchange(access.token) is None
    assert not access.known("")


def test_strangers_who_hold_connections_open_do_not_stop_the_server_for_good(world: Any) -> None:
    page = world.page()
    held = [socket.create_connection(("127.0.0.1", world.server.port)) for _ in range(60)]
    for connection in held:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
    for connection in held:
        connection.close()
    for _ in range(100):
        try:
            if page.api("next").status == 200:
                return
        except OSError:
            continue
    raise AssertionError("the server did not answer any more")


@pytest.mark.parametrize(
    "text", [b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nHost\r\n\r\n", b"A" * 70000]
)
def test_what_is_no_http_is_no_reason_to_fall_over(world: Any, text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=20) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while block := connection.recv(1 << 16):
                answer += block
        except ConnectionResetError:
            pass
    assert b"kdedge</h1>" not in answer
    assert b"Traceback" not in answer
    assert world.page().ask("GET", "/").status == 200


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "c.pem", tmp_path / "k.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    try:
        subprocess.run([*words, "-out", str(paths[0]), "-keyout", str(paths[1])], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed, which makes the test's certificate")
    return paths


@pytest.fixture
def secure(certificate: tuple[Path, Path], tmp_path: Path) -> Iterator[server.PageServer]:
    started = server.start(Desk("1"), fetch.WebRuntime(tmp_path, "1"), tls=certificate)
    yield started
    started.close()


def test_https_goes_on_while_a_stranger_never_finishes_the_handshake(secure: server.PageServer, certificate: tuple[Path, Path]) -> None:
    import http.client
    import ssl

    assert secure.address("localhost").startswith(f"https://localhost:{secure.port}/open/")
    with socket.create_connection(("127.0.0.1", secure.port)):
        context = ssl.create_default_context(cafile=str(certificate[0]))
        connection = http.client.HTTPSConnection("localhost", secure.port, context=context, timeout=20)
        connection.request("GET", f"/open/{secure.served.access.token}")
        answer = connection.getresponse()
        assert answer.status == 303
        assert answer.headers["Set-Cookie"].endswith("; Secure")
        connection.close()


def test_an_address_that_is_not_this_machines_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot listen on 192\.0\.2\.1, port 0: "):
        server.start(Desk("1"), fetch.WebRuntime(tmp_path, "1"), bind="192.0.2.1")
    with pytest.raises(DeviceError, match=r"the certificate .* cannot be used: "):
        server.start(Desk("1"), fetch.WebRuntime(tmp_path, "1"), tls=(tmp_path / "none", tmp_path / "none"))
