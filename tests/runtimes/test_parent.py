from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's parent-death signal")

# Starts a parent that starts a child, kills the parent, lets the child call `die_with_parent` only then, and says whether it lives on. The parent
# stays unreaped, and its orphans go to this process, not to process 1: as under a service manager.
FAMILY = """
import ctypes, os, signal, subprocess, sys, time
adopts, reaped, named = (word == "yes" for word in sys.argv[1:4])
if adopts:
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
CHILD = '''
import sys
sys.stdin.readline()
from kdedge.runtimes.parent import die_with_parent
die_with_parent()
print("lives", flush=True)
'''
PARENT = f'''
import os, subprocess, sys, time
variables = {{**os.environ, **({{"KDEDGE_PARENT": str(os.getpid())}} if {named} else {{}})}}
subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=variables)
print("started", flush=True)
time.sleep(60)
'''
parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
assert parent.stdout.readline() == "started\\n"
parent.kill()
if reaped:
    parent.wait()
else:
    os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
parent.stdin.write("go\\n")
parent.stdin.close()
print(parent.stdout.read().strip() or "died")
"""


@pytest.mark.parametrize("adopts", ["yes", "no"])
@pytest.mark.parametrize("reaped", ["yes", "no"])
def test_a_child_whose_parent_died_before_it_could_ask_ends_itself(adopts: str, reaped: str) -> None:
    assert _run(FAMILY, adopts, reaped, "yes") == "died"


def test_a_child_that_nobody_claims_lives_on() -> None:
    assert _run(FAMILY, "yes", "no", "no") == "lives"


def test_a_wrapper_between_the_two_does_not_kill_the_child() -> None:
    child = "from kdedge.runtimes.parent import die_with_parent; die_with_parent(); print('lives')"
    wrapper = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    program = f"""
import os, subprocess, sys
subprocess.run([sys.executable, "-c", {wrapper!r}], env={{**os.environ, "KDEDGE_PARENT": str(os.getpid())}}, check=True)
"""
    assert _run(program) == "lives"


def _run(program: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()
