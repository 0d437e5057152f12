"""A stage function that goes on where a killed attempt stopped, as training does."""

from __future__ import annotations

from pathlib import Path

RESUMABLE = True


def count(to: int, *, folder: Path) -> tuple[Path, ...]:
    """Write one line after the other into a file."""
    path = folder / "lines.txt"
    for number in range(len(path.read_text().splitlines()) if path.exists() else 0, to):
        with path.open("a") as handle:
            handle.write(f"{number}\n")
    return (path,)
