"""Two hundred faults on the way of a measurement: each must end with the right result or a named failure, with nothing counted twice or left behind.

Run: python benchmarks/faults.py [--runs 200] [--seed 0]

Half of the runs are on a board that is a folder of this machine, half over an OpenSSH server on loopback, whose connections are cut for real. What a
run is, and what must be true after it, stands in tests/fault_runs.py, of which the suite runs a few. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fault_runs import Outcome, faulty_run, local, slow_worker
from loopback_sshd import running_sshd

from kdedge.devices.ssh import CONFIG_VARIABLE, SshTransport
from kdedge.devices.transport import Transport


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; run n has seed + n")
    arguments = parser.parse_args()
    outcomes: list[tuple[str, Outcome]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = slow_worker(folder)
        (folder / "sshd").mkdir()
        with running_sshd(folder / "sshd") as server:
            os.environ[CONFIG_VARIABLE] = str(server.config)
            places: list[tuple[str, Callable[[], Transport], Callable[[], int] | None]] = [
                ("folder", local, None),
                ("ssh", lambda: SshTransport("board", "board"), server.cut),
            ]
            for number in range(arguments.runs):
                place, reach, cut = places[number % len(places)]
                work = folder / f"run-{number}"
                work.mkdir()
                outcomes.append((place, faulty_run(arguments.seed + number, work, archive, reach, cut)))
                show(number, *outcomes[-1])
    report(outcomes)


def show(number: int, place: str, outcome: Outcome) -> None:
    """One line a run."""
    ended = ", ".join(text[:60] for text in dict.fromkeys(outcome.ended))
    wrong = f"  WRONG: {'; '.join(outcome.wrong)}" if outcome.wrong else ""
    print(f"{number:4} {place:7} {outcome.kind:18} {'struck' if outcome.struck else 'missed':7} {ended}{wrong}", flush=True)


def report(outcomes: list[tuple[str, Outcome]]) -> None:
    """A table by kind of fault, and the line of JSON; exit code 1 where a run ended badly."""
    kinds = Counter(outcome.kind for _, outcome in outcomes)
    print("\n| fault | runs | struck | all jobs ok | named failures | wrong |\n| --- | --- | --- | --- | --- | --- |")
    for kind in sorted(kinds):
        of = [outcome for _, outcome in outcomes if outcome.kind == kind]
        fine = sum(all(text == "ok" for text in outcome.ended) for outcome in of)
        failures = sum(text != "ok" for outcome in of for text in outcome.ended)
        struck, wrong = sum(outcome.struck for outcome in of), sum(bool(outcome.wrong) for outcome in of)
        print(f"| {kind} | {len(of)} | {struck} | {fine} | {failures} | {wrong} |")
    bad = [outcome for _, outcome in outcomes if outcome.wrong]
    struck = sum(outcome.struck for _, outcome in outcomes)
    jobs = sum(len(outcome.ended) for _, outcome in outcomes)
    good = sum(text == "ok" for _, outcome in outcomes for text in outcome.ended)
    figures = {"runs": len(outcomes), "struck": struck, "jobs": jobs, "ok": good, "named_failures": jobs - good, "wrong": len(bad)}
    print(json.dumps({"benchmark": "faults", **figures, "wrong_seeds": [outcome.seed for outcome in bad], "kinds": dict(kinds)}))
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
