from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from page_client import PageClient

from kdedge.devices.browser import fetch, server
from kdedge.devices.browser.desk import Desk
from kdedge.runtimes.job import Job, LaunchRule, Result


@dataclass
class World:
    """A real server on loopback with files that stand in for onnxruntime-web, and a thread in which the host waits for results."""

    desk: Desk
    server: server.PageServer
    folder: Path
    pool: ThreadPoolExecutor

    def page(self) -> PageClient:
        return PageClient.opened(self.server.address())

    def job(self, kind: str = "validate", rows: int = 5, batch: int = 2, buckets: int = 1) -> Job:
        """Its model is no model: whoever plays the page computes nothing."""
        (self.folder / "model.onnx").write_bytes(b"the model's bytes")
        np.save(self.folder / "x.npy", np.arange(2 * rows, dtype=np.float32).reshape(rows, 2))
        files = [{"image": str(self.folder / "x.npy")}] * buckets
        rule = LaunchRule(0.0, 1, 0.0, 3, 5.0)
        return Job(kind, "onnxruntime", {"main": [str(self.folder / "model.onnx")]}, {"threads": 1}, files, batch=batch, launch=rule)

    def run(self, job: Job, timeout: float = 30.0, wanted: str = "", name: str = "job") -> Future[Result]:
        (self.folder / name).mkdir(exist_ok=True)
        return self.pool.submit(self.desk.run, job, self.folder / name, timeout, wanted)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(server, "LONG_POLL", 0.2)
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    for name in fetch.FILES:
        (runtime / name).write_text(f"stands in for {name}")
    (runtime / "package.json").write_text("not for pages")
    desk = Desk("1.2.3")
    started = server.start(desk, fetch.WebRuntime(runtime, "1.2.3"))
    with ThreadPoolExecutor(4) as pool:
        try:
            yield World(desk, started, tmp_path, pool)
        finally:
            started.close()
