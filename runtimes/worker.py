"""One job in one process: `python -m kdedge.runtimes.worker JOBFOLDER` turns `job.json` into `result.json`.

Whatever goes wrong becomes a result, so that the exit code is 0 whenever `result.json` was written. Only a dead process (a crash inside a
runtime, a kill) leaves none; `crash.txt` then says in which call it died.

On a board the same program is called as `worker.pyz supervise FOLDER SECONDS` (supervise.py), `worker.pyz probe` (facts.py) and
`worker.pyz sweep ROOT SECONDS BYTES` (sweep.py).
"""
# No `from __future__ import annotations` and no import of the rest before the check: an old Python must get as far as the sentence.

import sys
from typing import List, Optional

OLDEST = (3, 8)


def main(arguments: Optional[List[str]] = None) -> int:
    """Do the job in the folder that is the only argument, or what the first argument says. Returns the exit code: 2 where nothing could be done.

    Raises nothing: an unusable folder or Python is a sentence on stderr.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.version_info < OLDEST:
        sys.stderr.write("kdedge's worker needs Python %d.%d or newer; this is %d.%d\n" % (OLDEST + tuple(sys.version_info[:2])))
        return 2
    if arguments == ["probe"]:
        from .facts import probe

        return probe()
    if len(arguments) == 3 and arguments[0] == "supervise":
        from .supervise import supervise

        return supervise(arguments[1], arguments[2])
    if len(arguments) == 4 and arguments[0] == "sweep":
        from .sweep import sweep

        return sweep(arguments[1], arguments[2], arguments[3])
    if len(arguments) != 1:
        name = __spec__.name if __spec__ else "kdedge.runtimes.worker"
        sys.stderr.write("usage: python -m %s JOBFOLDER | supervise FOLDER SECONDS | probe | sweep ROOT SECONDS BYTES\n" % name)
        return 2
    from .perform import perform

    return perform(arguments[0])


def run() -> None:
    """`main`, and then the end of the process."""
    import os

    code = main()
    # Without the interpreter's own end: a runtime whose destructors crash must not turn a finished job into a dead one.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
