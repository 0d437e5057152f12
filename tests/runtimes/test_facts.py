"""The facts that a worker gathers are those of the machine it runs on, in strings, and nothing about whose it is."""

from __future__ import annotations

import getpass
import json
import platform
import socket
import subprocess
import sys

from kdedge.runtimes import facts


def test_a_probe_prints_the_facts_as_json() -> None:
    done = subprocess.run([sys.executable, "-m", "kdedge.runtimes.worker", "probe"], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert printed == facts.facts()
    assert printed["numpy"] is True
    assert printed["fingerprint"]["python"] == platform.python_version()
    assert all(isinstance(value, str) and value for value in printed["fingerprint"].values())


def test_the_facts_hold_no_host_and_no_user() -> None:
    words = [word for value in facts.fingerprint().values() for word in value.split()]
    assert socket.gethostname() not in words
    assert getpass.getuser() not in words


def test_a_machine_without_numpy_still_says_what_it_is() -> None:
    program = "import sys; sys.modules['numpy'] = None; from kdedge.runtimes.worker import main; sys.exit(main(['probe']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    printed = json.loads(done.stdout)
    assert printed["numpy"] is False
    assert {"machine", "cores", "python"} <= set(printed["fingerprint"])
    assert "onnxruntime" not in printed["fingerprint"]
