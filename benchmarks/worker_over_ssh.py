"""What a board costs beside this machine: the same job by the worker over an OpenSSH server on loopback, and locally. To reach: 1.5 s more at most.

Run: python benchmarks/worker_over_ssh.py [--turns 12]

The job is a launch of a ResNet-20 with 0.2 s of warm-up and 0.5 s of timing. Both sides take turns in the order ABBA; the figure is the median of the
differences by turn, with its interval. Opening the board, which connects and sends the worker, and the first job there, which sends model and input,
are told apart. Then an artifact of 50 MB is sent twice: the second time no byte may go over the line. Needs openssh-server. Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from resnet20_onnx import write_resnet20

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from loopback_sshd import running_sshd

from kdedge.devices import close_devices, open_device
from kdedge.devices.device import Device
from kdedge.devices.jobs import run_job
from kdedge.devices.ssh import CONFIG_VARIABLE, SshTransport
from kdedge.devices.store import Store
from kdedge.intervals import median_estimate
from kdedge.runtimes.job import Job, LaunchRule

RULE = LaunchRule(warmup_seconds=0.2, warmup_iterations=10, min_seconds=0.5, min_iterations=64, max_seconds=60.0)
LARGE = 50_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=12, help="jobs of each side; an even number, at least 6")
    arguments = parser.parse_args()
    if arguments.turns < 6 or arguments.turns % 2:
        parser.error(f"--turns {arguments.turns}: an even number, at least 6")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sshd").mkdir()
        with running_sshd(folder / "sshd") as server:
            os.environ[CONFIG_VARIABLE] = str(server.config)
            (folder / "devices.yaml").write_text(f"board: {{transport: 'ssh:board', python: '{sys.executable}', root: '{folder}/board'}}\n")
            os.environ["KDEDGE_DEVICES"] = str(folder / "devices.yaml")
            try:
                report(compare(folder, arguments.turns), bytes_of_two_pushes(folder))
            finally:
                close_devices()


def compare(folder: Path, turns: int) -> dict[str, list[float]]:
    """Seconds of opening the board, of the first job there, and of each job of a turn."""
    job = launch_of(folder)
    begin = time.perf_counter()
    board = open_device("board")
    opened = time.perf_counter() - begin
    devices = {"ssh": board, "local": open_device("local")}
    seconds: dict[str, list[float]] = {"opening": [opened], "first": [one_job(devices["ssh"], job, folder / "first")], "ssh": [], "local": []}
    one_job(devices["local"], job, folder / "warm")
    for turn in range(turns):
        for side in ("local", "ssh") if turn % 4 in (0, 3) else ("ssh", "local"):
            seconds[side].append(one_job(devices[side], job, folder / f"{side}-{turn}"))
    return seconds


def launch_of(folder: Path) -> Job:
    """A launch of a ResNet-20 with random weights."""
    model, image = folder / "resnet20.onnx", folder / "image.npy"
    write_resnet20(model)
    np.save(image, np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32))
    options = {"threads": 1, "spinning": False}
    return Job("launch", "onnxruntime", {"main": [str(model)]}, options, [{"image": str(image)}], launch=RULE)


def one_job(device: Device, job: Job, folder: Path) -> float:
    """Seconds of a job, whose launch must have been a good one. Each has a name of its own: a finished job is not run twice."""
    begin = time.perf_counter()
    result = run_job(device, job, folder, 120.0, folder.name)
    seconds = time.perf_counter() - begin
    if result.status != "ok":
        raise SystemExit(f"a job on {device.identity.name} ended as {result.status}: {result.reason}")
    return seconds


def bytes_of_two_pushes(folder: Path) -> tuple[int, int]:
    """Bytes over the line for an artifact of 50 MB that is not there, and again."""
    large = folder / "artifact.onnx"
    large.write_bytes(os.urandom(LARGE))
    transport = SshTransport("board", "board")
    store = Store(transport, f"{folder}/large", "board")
    try:
        return store.sent([large]), store.sent([large])
    finally:
        transport.close()


def report(seconds: dict[str, list[float]], sent: tuple[int, int]) -> None:
    """Print both sides, the difference and the line of JSON."""
    more = median_estimate("seconds_more", [over - here for over, here in zip(seconds["ssh"], seconds["local"], strict=True)], "s")
    middle = {side: statistics.median(seconds[side]) for side in ("local", "ssh")}
    print(f"opening the board, with the worker sent: {seconds['opening'][0]:.2f} s; the first job, with its files sent: {seconds['first'][0]:.2f} s")
    print(f"a job here {middle['local']:.2f} s, over ssh {middle['ssh']:.2f} s: {more} more, {more.n} turns")
    print(f"an artifact of {LARGE:,} bytes: {sent[0]:,} bytes sent, then {sent[1]:,}")
    figures = {"seconds_more": more.as_json(), "turns": more.n}
    first = {"opening_s": round(seconds["opening"][0], 3), "first_job_s": round(seconds["first"][0], 3)}
    here = {"local_s": round(middle["local"], 3), "ratio": round(middle["ssh"] / middle["local"], 3)}
    print(json.dumps({"benchmark": "worker_over_ssh", **figures, **here, **first, "bytes_first": sent[0], "bytes_again": sent[1]}))


if __name__ == "__main__":
    main()
