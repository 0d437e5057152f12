"""Who may use a board: one host at a time, until a time that the board's own clock decides.

    ROOT/lease/N/owner      one line: id, expiry, boot id, run id; and one for people. The highest N is the lease
    ROOT/lease/N/released   it was given back

A lease is taken by making the folder of the next number, which only one of two can do, and is never removed but for one with a higher number: a
contender that looked long ago finds its number taken, or finds a higher one, and steps back. The clock is the time since the board started, which
nobody sets; a restart ends every lease. Plain commands, so that it works where there is no Python.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from kdedge.devices.owners import is_dead, own_id, own_text
from kdedge.devices.store import run_script
from kdedge.devices.transport import Transport
from kdedge.errors import DeviceError, DeviceTaken

SECONDS = 120
# A lease without an owner is one that is just being taken, or whose taker died between two calls.
_UNOWNED_SECONDS = 5.0
_WAIT_SECONDS = 0.25

# $1: root, $2: own id. Sets now, boot, last (highest number) and, of the lease `last`, the words of its owner.
_PRELUDE = """
lease=$1/lease
mkdir -p "$lease" || exit 1
now=; read -r now _ </proc/uptime || now=$(date +%s)
now=${now%%.*}
boot=-; read -r boot </proc/sys/kernel/random/boot_id || boot=-
highest() {
    last=0
    for each in "$lease"/*; do
        each=${each##*/}
        case $each in *[!0-9]*) ;; *) [ "$each" -gt "$last" ] && last=$each ;; esac
    done
}
# Whether lease $1 is held: sets holder, expiry, run.
held() {
    holder=; expiry=0; its_boot=; run=; text=
    [ "$1" -gt 0 ] && [ ! -e "$lease/$1/released" ] || return 1
    [ -f "$lease/$1/owner" ] || { [ -d "$lease/$1" ] && holder=?; return 0; }
    { read -r holder expiry its_boot run; read -r text; } <"$lease/$1/owner"
    [ "$its_boot" = "$boot" ] && [ "$expiry" -gt "$now" ]
}
write() {
    printf '%s %s %s %s\\n%s\\n' "$2" "$((now + $3))" "$boot" "$4" "$5" >"$lease/$1/owner.$2" && mv -f "$lease/$1/owner.$2" "$lease/$1/owner"
}
# The supervisor of run $1, if it works: sets pid.
works() {
    pid=; its_boot=
    for each in "$root/jobs/$1"/claim-*; do [ -f "$each" ] && read -r pid its_boot <"$each"; done
    [ -n "$pid" ] && [ "$its_boot" = "$boot" ] || return 1
    case "$(tr '\\0' ' ' </proc/"$pid"/cmdline 2>/dev/null)" in *"$1"*) return 0 ;; esac
    return 1
}
root=$1
ours=
highest
"""

# $2: own id, $3: seconds, $4: run id, $5: text, $6: the id of an owner that is known to be dead, $7: a number whose taker died.
_TAKE = (
    _PRELUDE
    + """
before=$last
if held "$before"; then
    case $holder in
        "$2" | "$6") ;;
        "?") [ "$before" = "$7" ] || { echo "unowned $before"; exit; } ;;
        *) echo "taken $holder $((expiry - now)) $run"; echo "$text"; exit ;;
    esac
    ours=$holder
fi
# A job that goes on after its lease: of a host that may come back, it keeps the board; of a dead one, or one that we gave up, it ends.
if [ -n "$run" ] && [ "$run" != "$4" ] && works "$run"; then
    case $holder in
        "$2" | "$6") kill -9 "$pid" ;;
        *) echo "busy $holder 0 $run"; echo "$text"; exit ;;
    esac
fi
if [ "$ours" = "$2" ]; then write "$before" "$2" "$3" "$4" "$5" || exit 1; fi
highest
[ "$last" = "$before" ] || { echo again; exit; }
if [ "$ours" = "$2" ]; then echo "held $before"; exit; fi
mine=$((before + 1))
mkdir "$lease/$mine" 2>/dev/null || { echo again; exit; }
write "$mine" "$2" "$3" "$4" "$5" || { rm -rf "$lease/$mine"; exit 1; }
highest
# Somebody may have been quicker, or the holder before may have renewed its lease at the last moment.
if [ "$last" != "$mine" ]; then rm -rf "$lease/$mine"; echo again; exit; fi
if held "$before" && [ "$holder" != "$6" ] && [ "$holder" != "?" ] && [ "$holder" != "$2" ]; then
    : >"$lease/$mine/released"; echo "taken $holder $((expiry - now)) $run"; echo "$text"; exit
fi
for each in "$lease"/*; do
    each=${each##*/}
    case $each in *[!0-9]*) ;; *) [ "$each" -lt "$mine" ] && rm -rf "$lease/${each:?}" ;; esac
done
echo "held $mine"
"""
)

_LOOK = (
    _PRELUDE
    + """
if held "$last"; then echo "$holder $((expiry - now)) $run"; echo "$text"; fi
"""
)

# $2: own id, $3: number.
_GIVE_BACK = (
    _PRELUDE
    + """
{ read -r holder _; } <"$lease/$3/owner" 2>/dev/null || exit 0
[ "$holder" = "$2" ] && : >"$lease/$3/released"
exit 0
"""
)


@dataclass(frozen=True)
class Holder:
    """Who has the lease. `seconds`: how long it still holds. `run`: the run id of the job that it was taken or renewed for."""

    id: str
    text: str
    seconds: int
    run: str


class Lease:
    """The lease of one board, for one user of it in this process. `name`: the device's, for messages."""

    def __init__(self, transport: Transport, root: str, name: str, seconds: int = SECONDS) -> None:
        self._transport = transport
        self._root = root
        self._name = name
        self._seconds = seconds
        self._id = own_id()
        self._number = ""
        self._renew_at = 0.0

    def take(self, run: str) -> bool:
        """Have the lease for the job of that run id: take it, or renew it. Whether it is a new one: others may have had the board meanwhile.

        Raises:
            DeviceTaken: another host has it (the message says who and until when).
        """
        dead, unowned, since = "-", "-", time.monotonic()
        while True:
            said = self._script(_TAKE, [self._id, str(self._seconds), run, own_text(), dead, unowned]).splitlines()
            state, *words = said[0].split() if said else [""]
            if state == "held":
                is_new, self._number = words[0] != self._number, words[0]
                self._renew_at = time.monotonic() + self._seconds / 3
                return is_new
            if state in ("taken", "busy") and words[0] != dead and is_dead(words[0]):
                dead = words[0]
                continue
            if state in ("taken", "busy"):
                self._number = ""
                raise DeviceTaken(_refusal(self._name, state, words, said[1] if len(said) > 1 else ""))
            if state not in ("again", "unowned"):
                raise DeviceError(f"device `{self._name}`: its lease cannot be read: {' '.join(said) or 'no answer'}")
            if state == "unowned" and time.monotonic() - since > _UNOWNED_SECONDS:
                unowned = words[0]
            time.sleep(_WAIT_SECONDS)

    def renew(self, run: str) -> None:
        """Renew the lease where a third of its time is over; else nothing.

        Raises:
            DeviceTaken: it was lost meanwhile.
        """
        if time.monotonic() >= self._renew_at:
            self.take(run)

    def give_back(self) -> None:
        """Give the lease back, if it is held.

        Raises:
            DeviceError: the device does not answer.
        """
        if self._number:
            self._script(_GIVE_BACK, [self._id, self._number])
            self._number = ""

    def _script(self, script: str, words: list[str]) -> str:
        return run_script(self._transport, self._name, script, [self._root, *words], "its lease cannot be taken").stdout


def holder(transport: Transport, root: str, name: str) -> Holder | None:
    """Who has the lease of a board now; None where nobody has.

    Raises:
        DeviceError: the device does not answer.
    """
    said = run_script(transport, name, _LOOK, [root], "its lease cannot be read").stdout.splitlines()
    if not said:
        return None
    identity, seconds, run = [*said[0].split(), "", "0", ""][:3]
    return Holder(identity, said[1] if len(said) > 1 else "", int(seconds), run)


def _refusal(name: str, state: str, words: list[str], text: str) -> str:
    who = text or "another host"
    if state == "busy":
        return f"device `{name}`: {who} has lost its connection to the device, and its job {words[-1]} still runs there; wait until it has ended"
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + int(words[1])))
    return f"device `{name}` is taken by {who} until {until} (in {words[1]} s), unless that is renewed; wait, or end it there"
