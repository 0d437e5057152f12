"""Peak memory of this process."""

from __future__ import annotations

import sys
from typing import Optional


def peak_memory_bytes() -> Optional[int]:
    """The largest resident size since the process began, in bytes, or None where the system does not say.

    On Linux and Android this is VmHWM, which the kernel keeps: exact, and no polling that disturbs a measurement.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as handle:
            for line in handle:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024
