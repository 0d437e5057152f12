"""A page played by Python, for tests of the browser device's server that need no browser: it speaks to it over real HTTP."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import numpy.typing as npt

FACTS = {"browser": "Chrome 156", "platform": "Android 16", "model": "Pixel 8", "cores": 8, "wasm": "simd threads", "cross_origin_isolated": "yes"}
_loads = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class PageClient:
    """`cookie`: what the one-time token was exchanged for; `load`: which load of the page it is."""

    port: int
    cookie: str = ""
    host: str = ""
    load: str = field(default_factory=lambda: f"load-{next(_loads)}")

    @classmethod
    def opened(cls, address: str, facts: Mapping[str, Any] = FACTS) -> PageClient:
        """Open an address with a token in it, as a browser does, and say hello."""
        url = urlsplit(address)
        assert url.port is not None
        page = cls(url.port)
        answer = page.ask("GET", url.path)
        assert answer.status == 303, answer
        page.cookie = answer.headers["set-cookie"].partition(";")[0]
        page.reload(facts)
        return page

    def reload(self, facts: Mapping[str, Any] = FACTS) -> str:
        """Load the page anew; returns the name that the server gives it."""
        self.load = f"load-{next(_loads)}"
        answer = self.api("hello", facts)
        assert answer.status == 200, answer
        return str(answer.json["name"])

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {
            "X-Load": self.load,
            **({"Cookie": self.cookie} if self.cookie else {}),
            **({"Host": self.host} if self.host else {}),
            **(headers or {}),
        }
        try:
            connection.putrequest(method, path, skip_host=bool(self.host))
            if body is not None and "Content-Length" not in sent and "Transfer-Encoding" not in sent:
                sent["Content-Length"] = str(len(body))
            for name, value in sent.items():
                if value:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def api(self, path: str, value: Any = None) -> Answer:
        return self.ask("POST", f"/api/{path}", json.dumps(value or {}).encode())

    def next(self) -> dict[str, Any]:
        """Wait for a job."""
        while True:
            answer = self.api("next")
            assert answer.status == 200, answer
            if answer.json["job"]:
                return dict(answer.json["job"])

    def at(self, job: Mapping[str, Any], path: str, body: bytes = b"{}") -> Answer:
        return self.ask("POST", f"/api/jobs/{job['id']}/{job['attempt']}/{path}", body)

    def rows(self, job: Mapping[str, Any], array: npt.NDArray[Any], name: str = "y", bucket: int = 0) -> Answer:
        query = urlencode({"name": name, "dtype": str(array.dtype), "shape": ",".join(map(str, array.shape))})
        return self.at(job, f"outputs/{bucket}?{query}", array.tobytes())

    def samples(self, job: Mapping[str, Any], values: list[int], warmup: tuple[int, ...] = (5000000,)) -> None:
        for which, array in (("warmup", warmup), ("samples", values)):
            assert self.at(job, f"samples/{which}", np.array(array, dtype="<i8").tobytes()).status == 200

    def finish(self, job: Mapping[str, Any], **said: Any) -> Answer:
        usual = {"status": "ok", "load_ms": 12.5, "first_inference_ms": 3.25, "facts": {"clock_tick_ns": 5000}, "evidence": {"hidden_ms": 0}}
        return self.at(job, "result", json.dumps({**usual, **said}).encode())
