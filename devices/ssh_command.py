"""What is sent over ssh: a command as one line for the remote shell, and what ssh's own complaints mean."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected

_BEGIN, _END = "kdedge-group ", "kdedge-exit "

# The outer shell is there so that `setsid` need not fork: sshd closes the input of a command whose first process has ended.
_OUTER = 'setsid "$@"; exit 0'
# In a session of its own, so that `kill` reaches the command and its children and nobody else. A clean environment: what a login sets besides these
# would change what is measured. ssh's exit code cannot tell a lost connection from a command's 255, hence the last line.
_WRAPPER = f"""
echo "{_BEGIN}$$" >&2
env -i PATH="$PATH" HOME="$HOME" LANG="${{LANG:-C.UTF-8}}" ${{LD_LIBRARY_PATH+"LD_LIBRARY_PATH=$LD_LIBRARY_PATH"}} \\
    ${{XDG_CACHE_HOME+"XDG_CACHE_HOME=$XDG_CACHE_HOME"}} ${{TMPDIR+"TMPDIR=$TMPDIR"}} "$@"
echo "{_END}$?" >&2
kill -9 -$$
"""


def remote_line(argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """One command line for whatever shell the login has; `argv` is quoted here and nowhere else."""
    variables = [f"{name}={value}" for name, value in (env or {}).items()]
    return shlex.join(["sh", "-c", _OUTER, "kdedge", "sh", "-c", _WRAPPER, "kdedge", *variables, *argv])


@dataclass(frozen=True)
class Said:
    """What came back on stderr. `group`: process group there, 0 where the command did not get that far. `code`: None where its end was not seen."""

    group: int
    code: int | None
    stderr: str


def read_said(stderr: str) -> Said:
    """Take the wrapper's lines out of what came back on stderr. A code above 128 means a signal, as shells have it; it becomes negative."""
    group, code, kept = 0, None, []
    for line in stderr.splitlines(keepends=True):
        began, ended = re.search(rf"{_BEGIN}(\d+)\s*$", line), re.search(rf"{_END}(\d+)\s*$", line)
        if began and not group:
            group = int(began.group(1))
            line = line[: began.start()]
        elif ended:  # what follows are the outer shell's words on how the inner one ended
            code = int(ended.group(1))
            kept.append(line[: ended.start()])
            break
        kept.append(line)
    if code is not None and 128 < code <= 128 + 64:
        code = 128 - code
    return Said(group, code, "".join(kept))


# ssh's words (OpenSSH 7.2 to 10) -> what it means and what to do. The first that is found counts.
_COMPLAINTS: tuple[tuple[str, type[DeviceError], str], ...] = (
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED", DeviceGone, "its host key is another than the one known; find out why, then `ssh-keygen -R`"),
    (r"Host key verification failed|host key is known", DeviceGone, "its host key is not known: log in once by hand with `ssh` and check the key"),
    (r"Permission denied", DeviceGone, "it does not let us in: put your public key there (`ssh-copy-id`), or load your key (`ssh-add`)"),
    (r"Too many authentication failures", DeviceGone, "it does not let us in: name the right key by IdentityFile in your ssh config"),
    (r"Bad configuration option|Bad owner or permissions|no argument after|terminating, \d+ bad", DeviceGone, "your ssh config is wrong"),
    (r"Temporary failure in name resolution", Disconnected, "its name cannot be looked up now"),
    (r"Could not resolve hostname", DeviceGone, "there is no host of that name: check the name, or give it a HostName in your ssh config"),
    (r"timed out during banner exchange|Timeout, server .* not responding", DeviceUnresponsive, "it does not answer"),
    (r"setsid: (command )?not found", DeviceError, "it has no `setsid` (util-linux or busybox), which kdedge needs"),
)


def complaint(name: str, stderr: str, was_connected: bool) -> DeviceError:
    """What a failed ssh means, as an error with what to do. `was_connected`: a name that was found once may vanish while the board restarts."""
    words = [line.strip() for line in stderr.splitlines() if line.strip() and not line.startswith(("@", "debug"))]
    quoted = f" ({words[-1].rstrip('.')})" if words else ""
    for pattern, kind, what in _COMPLAINTS:
        if re.search(pattern, stderr, re.IGNORECASE):
            lost = was_connected and (kind is DeviceUnresponsive or "resolve" in pattern)
            return (Disconnected if lost else kind)(f"device `{name}`: {what}{quoted}")
    return Disconnected(f"device `{name}`: the connection is lost or cannot be made{quoted}")
