"""Is a bundle whole, and does its artifact still answer as it did?

A bundle may come from anywhere, so it is distrusted until every byte of it is accounted for: no path that leaves the folder, no link, no file
that is missing, changed or not listed. Only then is its artifact run. Code that travels in a bundle is run only where it is, byte for byte,
the code of this installation; otherwise this installation's own does the check.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdedge.bundle import self_check
from kdedge.bundle.code import code_files
from kdedge.bundle.manifest import MANIFEST, FileEntry, describe_file, entries_of, read_manifest, safe_path
from kdedge.bundle.pack import DATA_FOLDERS
from kdedge.devices import open_device
from kdedge.devices.jobs import run_job
from kdedge.errors import BundleError
from kdedge.runtimes.job import Job

EXIT_CODES = {"ok": 0, "files-only": 0, "failed": 1, "not-run": 3}


@dataclass(frozen=True)
class VerifyReport:
    """What verifying found. A bundle that is not whole gives no report but a BundleError.

    `status`: ok (whole, and the artifact answers as it must) | failed (whole, but it does not) | not-run (whole; `reason` says why the
    artifact cannot run here) | files-only (whole; running was not asked for). `sqnr_db`: signal to noise against the golden outputs, by name.
    `own_code`: the bundle carries the code of another kdedge, so this installation's did the check. `device`: where it ran, "" for this machine.
    """

    name: str
    target: str
    precision: str
    digest: str
    files: int
    status: Literal["ok", "failed", "not-run", "files-only"]
    reason: str = ""
    runtime_version: str = ""
    sqnr_db: dict[str, Any] = field(default_factory=dict)
    minimum_sqnr_db: float = 0.0
    golden_source: str = ""
    own_code: bool = False
    device: str = ""

    @property
    def exit_code(self) -> int:
        """0 fine, 1 other outputs, 3 it could not be run here."""
        return EXIT_CODES[self.status]

    @property
    def text(self) -> str:
        """For a person."""
        lines = [f"{self.name}: {self.files} files are whole, digest {self.digest}"]
        if self.own_code:
            lines.append("checked with the code of this installation: the bundle carries that of another kdedge")
        match self.status:
            case "ok":
                lines.append(f"it answers as it must, on {', '.join(filter(None, [self.device, self.runtime_version]))}:")
            case "failed":
                lines.append(f"FAILED: {self.reason}")
            case "not-run":
                lines.append(f"not run: {self.reason}")
            case "files-only":
                lines.append("it was not run: only the files were asked for")
        for name, ratio in self.sqnr_db.items():
            said = ratio if isinstance(ratio, str) else f"{ratio:.1f} dB signal to noise"
            lines.append(f"  {name}: {said} (at least {self.minimum_sqnr_db:g} dB; golden outputs: {self.golden_source})")
        return "\n".join(lines)


def verify(bundle: Path, run: bool = True, *, device: str = "", timeout: float = 600.0) -> VerifyReport:
    """Check a bundle's files, then run its golden examples in a process of its own; with `device`, there, by this installation's own code.

    Raises:
        DeviceError: there is no such device, or it is lost.
        BundleError: it is no bundle, of another schema, or not whole: a file that is missing, changed, not listed, a link, or a path that
            leaves the folder.
    """
    root = Path(os.path.realpath(bundle))  # `resolve` knows no sentence for a link to itself
    if not root.is_dir():
        raise BundleError(f"{bundle}: there is no such folder")
    manifest = read_manifest(root)
    entries = entries_of(manifest, root)
    refuse_strangers(root, entries)
    for entry in entries:
        _same(describe_file(root, entry.path), entry, root)
    _names_listed_files_only(manifest, entries, root)
    artifact, golden = manifest["artifact"], manifest["golden"]
    own_code = not device and not _carries_this_code(entries)
    facts: dict[str, Any] = {
        "name": str(manifest["name"]),
        "target": str(artifact["target"]),
        "precision": str(artifact["precision"]),
        "digest": str(manifest["digest"]),
        "files": len(entries) + 1,
        "minimum_sqnr_db": float(golden["minimum_sqnr_db"]),
        "golden_source": str(golden["source"]),
    }
    if not run:
        return VerifyReport(**facts, status="files-only")
    found = _on_device(root, manifest, device, timeout) if device else _self_check(root, own_code, timeout)
    return VerifyReport(
        **facts,
        status=found["status"],
        reason=str(found["reason"]),
        runtime_version=f"{artifact['runtime']} {found['runtime_version']}",
        sqnr_db=dict(found["sqnr_db"]),
        own_code=own_code,
        device=device,
    )


def refuse_strangers(root: Path, entries: tuple[FileEntry, ...]) -> None:
    """Nothing may lie in the folder that the manifest does not list.

    Raises:
        BundleError: a file, folder, link or device that is not listed.
    """
    listed = {entry.path for entry in entries} | {MANIFEST}
    folders = {parent.as_posix() for path in listed for parent in Path(path).parents}
    waiting = [root]
    while waiting:
        for item in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
            path = Path(item.path).relative_to(root).as_posix()
            if item.is_symlink():
                raise BundleError(f"{root.name}: `{path}` is a link; a bundle holds real files only")
            if item.is_dir(follow_symlinks=False) and path in folders:
                waiting.append(Path(item.path))
            elif path not in listed:
                raise BundleError(f"{root.name}: `{path}` is not listed in {MANIFEST}")


def _same(found: FileEntry, listed: FileEntry, root: Path) -> None:
    if found.size != listed.size:
        raise BundleError(f"{root.name}: `{found.path}` has {found.size} bytes, {MANIFEST} says {listed.size}")
    if found.sha256 != listed.sha256:
        raise BundleError(f"{root.name}: `{found.path}` was changed: its SHA-256 is {found.sha256}, {MANIFEST} says {listed.sha256}")


def _names_listed_files_only(manifest: dict[str, Any], entries: tuple[FileEntry, ...], root: Path) -> None:
    """What will be opened must be among the files that were checked, and the parts that are used must have their form."""
    listed = {entry.path for entry in entries}
    try:
        named = [path for graph in manifest["artifact"]["graphs"] for path in graph["files"]]
        cases = manifest["golden"]["cases"]
        named += [path for case in cases for kind in ("inputs", "outputs") for path in case[kind].values()]
        # What encodes a raw example is opened by whoever uses the bundle.
        named += [*manifest.get("assets", ()), *filter(None, [manifest["input"]["encoder"].get("tokenizer")])]
        usable = bool(cases) and all(isinstance(manifest["artifact"][key], str) for key in ("runtime", "target", "precision"))
        usable = usable and isinstance(manifest["golden"]["minimum_sqnr_db"], int | float) and isinstance(manifest["golden"]["source"], str)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{root.name}: {MANIFEST} does not say what is needed to run the artifact: {error}") from error
    if not usable:
        raise BundleError(f"{root.name}: {MANIFEST} does not say what is needed to run the artifact")
    for path in named:
        if not isinstance(path, str) or safe_path(path, root) not in listed:
            raise BundleError(f"{root.name}: {MANIFEST} names `{path}`, which is not among its files")


def _carries_this_code(entries: tuple[FileEntry, ...]) -> bool:
    """Whether all that Python could import from the bundle is this installation's own. Any file counts, since not only `.py` is code."""
    ours = {path: hashlib.sha256(source.read_bytes()).hexdigest() for path, source in code_files().items()}
    theirs = {entry.path: entry.sha256 for entry in entries if entry.path.split("/")[0] not in DATA_FOLDERS}
    return theirs == ours


def _self_check(root: Path, own_code: bool, timeout: float) -> dict[str, Any]:
    """Run the bundle's self-check (or ours on the bundle) and read the object that it prints last."""
    script = code_files()["self_check.py"] if own_code else root / "self_check.py"
    worker = ["--worker", "kdedge.runtimes"] if own_code else []
    command = [sys.executable, "-B", str(script), str(root), "--json", "--timeout", str(timeout), *worker]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, timeout=timeout + 60, check=False)
    except subprocess.TimeoutExpired:
        return _failed(f"the self-check did not end within {timeout + 60:g} s")
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        words = done.stderr.strip().splitlines()
        return _failed(f"the self-check ended with code {done.returncode} and said nothing that can be read{': ' + words[-1] if words else ''}")
    if found.get("status") not in ("ok", "failed", "not-run"):
        return _failed(str(found.get("reason")))
    return found


def _on_device(root: Path, manifest: dict[str, Any], device: str, timeout: float) -> dict[str, Any]:
    """What the self-check would say of the artifact on another device. The files are known to be whole."""
    try:
        job = Job(**self_check.described(root, manifest))
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{root.name}: {MANIFEST} does not say what is needed to run the artifact: {error}") from error
    with tempfile.TemporaryDirectory(prefix="kdedge-verify-") as name:
        folder = Path(name).resolve()
        result = run_job(open_device(device), job, folder, timeout, "verify")
        found: dict[str, Any] = {"status": result.status, "reason": result.reason, "runtime_version": result.runtime_version, "sqnr_db": {}}
        if result.status == "ok":
            try:
                self_check.compare(root, manifest["golden"], folder, result.outputs, found)
            except (OSError, ValueError, KeyError, TypeError) as error:
                return _failed(f"its outputs cannot be compared: {type(error).__name__}: {error}")
    return found


def _failed(reason: str) -> dict[str, Any]:
    return {"status": "failed", "reason": reason, "sqnr_db": {}, "runtime_version": ""}
