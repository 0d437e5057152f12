"""Devices on disk, for tests: what their files and commands show. Each file in `tests/devices/fixtures` says on top where it comes from."""

from __future__ import annotations

from pathlib import Path

from kdedge.runtimes.reach import Reach, in_folder

FIXTURES = Path(__file__).parent / "devices" / "fixtures"


def parts(name: str) -> dict[str, str]:
    """What stands under each `@@` of a fixture."""
    text = (FIXTURES / f"{name}.txt").read_text(encoding="utf-8")
    found = {}
    for part in ("\n" + text).split("\n@@ ")[1:]:
        head, _, body = part.partition("\n")
        found[head] = body.strip("\n")
    return found


def laid_out(name: str, folder: Path) -> Reach:
    """Lay a fixture's files out in a folder, and reach them there."""
    for head, body in parts(name).items():
        path = folder / "commands" / head.removeprefix("run ").replace("/", "_") if head.startswith("run ") else folder / head.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body + "\n", encoding="utf-8")
    return in_folder(str(folder))
