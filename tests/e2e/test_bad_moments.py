"""A workspace that cannot be used, a disk that fills up, Ctrl-C, a killed worker, a missing runtime: a sentence, and what was finished is kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import whole_runs
from command_line import Ended, started
from small_recipes import cells, kdedge, refused, run, stages, write

ROOT = os.geteuid() == 0 if hasattr(os, "geteuid") else False
DISTILLED = ("prepare.prepare", "teacher.obtain", "trainer.distill", "references.reference_outputs")


@contextlib.contextmanager
def disk(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A file system of its own at `folder`; the function changes its options."""
    folder.mkdir(parents=True, exist_ok=True)
    if not ROOT or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:

        def remount(changed: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{changed}", str(folder)], check=True)

        yield remount
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that was run until its artifact was validated."""
    recipe = write(tmp_path_factory.mktemp("finished"))
    assert run(recipe, command="validate").code == 0
    return recipe


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of its workspace."""
    return Path(shutil.copytree(finished.parent / "workspace", tmp_path / "workspace"))


# ---- the workspace ---------------------------------------------------------------------------------------------------------


def test_a_workspace_that_is_a_file_or_cannot_be_made(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    for place, words in {"file": "Not a directory", "file/below": "Not a directory", "n" * 300: "File name too long", "ring": "ring"}.items():
        refused(kdedge("run", recipe, "--workspace", tmp_path / place), "workspace error", str(tmp_path / place), words)
    assert (tmp_path / "file").read_text() == "mine"
    refused(kdedge("verify", tmp_path / "ring"), "ring", "no such folder")


@pytest.mark.parametrize("name", ["stages", "partial", "locks", "runs"])
def test_a_workspace_whose_folder_is_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / name).write_text("")
    refused(run(write(tmp_path)), "workspace error", f"workspace/{name}", "File exists")


def test_a_read_only_workspace_serves_what_is_finished_and_nothing_else(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    with disk(tmp_path / "workspace", "size=20m") as remount:
        assert run(recipe, command="distill").code == 0
        remount("ro")
        refused(run(recipe, command="export"), "workspace error", "Read-only file system", str(tmp_path / "workspace"), "finished stages are kept")
        remount("rw")
        found = stages(run(recipe, command="export"))
        assert [found[name] for name in DISTILLED] == [True] * 4


def test_a_read_only_folder_of_runs_loses_no_stage(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    with disk(tmp_path / "workspace" / "runs", "ro,size=1m"):
        ended = run(recipe)
        refused(ended, "workspace error", "lay out the report and the bundles", "Read-only file system", "workspace/runs/small")
    before = stages(ended)
    assert "pack.pack onnxruntime-x86 fp32" in before
    again = run(recipe, "--json")
    assert again.code == 0, again.err
    assert {name for name, cached in stages(again).items() if cached} == set(before)
    assert Path(json.loads(again.out.splitlines()[-1])["report"]).is_file()


def stage_folder(workspace: Path, name: str) -> Path:
    (found,) = (workspace / "stages").glob(f"{name}-*")
    return found


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _replaced(path: Path, put: Callable[[Path], Any]) -> None:
    shutil.rmtree(path)
    put(path)


def _made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _record(text: str | bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "result.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def _edited(folder: Path) -> None:
    path = folder / "result.json"
    path.write_text(path.read_text().replace('"parameters": ', '"parameters": 1'))


DAMAGED: dict[str, Callable[[Path], Any]] = {
    "an empty record": _record(""),
    "half a record": _record('{"digest": "'),
    "a record of bytes": _record(b"\xff\xfe\0"),
    "a record that is a list": _record("[]"),
    "a record that is nothing": _record("null"),
    "a record without a digest": _record('{"retry": false, "files": {}, "value": 3}'),
    "a record of another type": _record('{"retry": false, "files": [], "value": 3, "digest": 3}'),
    "a record that names other code": _record('{"retry":false,"digest":"","files":{},"value":{"$":"dataclass","type":"os:system","fields":{}}}'),
    "a record without end": _record("[" * 5000),
    "a record that was edited": _edited,
    "a record that is a folder": lambda folder: _made_a_folder(folder / "result.json"),
    "weights that are gone": lambda folder: (folder / "model.safetensors").unlink(),
    "weights cut short": lambda folder: os.truncate(folder / "model.safetensors", 100),
    "weights with a flipped bit": lambda folder: _flip(folder / "model.safetensors"),
    "a file for the folder": lambda folder: _replaced(folder, lambda path: path.write_text("")),
    "a link for the folder": lambda folder: _replaced(folder, lambda path: path.symlink_to("/nowhere")),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_stage_is_made_again_to_the_same_bytes(what: str, finished: Path, workspace: Path) -> None:
    before = whole_runs.outcome(workspace)
    DAMAGED[what](stage_folder(workspace, "trainer.distill"))
    ended = kdedge("distill", finished, "--workspace", workspace)
    assert ended.code == 0, ended.err
    assert stages(ended) == {name: name != "trainer.distill" for name in DISTILLED}
    assert whole_runs.outcome(workspace) == before
    assert all(stages(kdedge("distill", finished, "--workspace", workspace)).values())


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"a": 1}', '{"file:/x": [1, 2]}', '{"source:/x": [[1, 2, 3], ["a"]]}', "without end", "spoilt"]
)
def test_a_damaged_memory_of_hashes_is_forgotten(content: str, finished: Path, workspace: Path) -> None:
    memo = workspace / "memo.json"
    if content == "spoilt":
        entries = json.loads(memo.read_text())
        assert entries
        content = json.dumps({name: [stamp, [1, [2], 3, None]] for name, (stamp, _) in entries.items()})
    memo.write_text("[" * 5000 if content == "without end" else content)
    ended = kdedge("distill", finished, "--workspace", workspace)
    assert ended.code == 0, ended.err
    assert stages(ended) == dict.fromkeys(DISTILLED, True)


@pytest.mark.parametrize("left", ["a damaged checkpoint", "a file"])
def test_a_damaged_attempt_is_not_used(left: str, finished: Path, workspace: Path) -> None:
    before = whole_runs.outcome(workspace)
    folder = stage_folder(workspace, "trainer.distill")
    shutil.rmtree(folder)
    attempt = workspace / "partial" / folder.name
    if left == "a file":
        attempt.write_text("")
    else:
        attempt.mkdir()
        (attempt / "checkpoint.bin").write_bytes(bytes(500))
    assert kdedge("distill", finished, "--workspace", workspace).code == 0
    assert whole_runs.outcome(workspace) == before


# ---- a full disk -----------------------------------------------------------------------------------------------------------

MANY = [
    {"target": "onnxruntime-x86", "precision": ["fp32", "int8"]},
    {"target": "openvino", "precision": ["fp16"]},
    {"target": "torch", "precision": ["fp32"]},
]


@pytest.mark.slow
def test_a_full_disk_is_named_and_the_run_goes_on_where_there_is_room(tmp_path: Path) -> None:
    recipe = write(tmp_path, export=MANY)
    ends = set()
    with disk(tmp_path / "workspace", "size=40k") as remount:
        before: set[str] = set()
        # A little more room each time: the disk fills up in one stage after the other.
        for kilobytes in (40, 72, 128, 160, 184, 224, 244, 300, 420, 900, 1300):
            remount(f"size={kilobytes}k")
            ended = run(recipe)
            if ended.code != 2:
                break
            said = " ".join(ended.err.split())
            refused(ended, str(tmp_path / "workspace"))
            assert "No space left on device" in said or "is the disk full?" in said, ended.err
            found = stages(ended)
            assert {name for name, cached in found.items() if cached} >= before
            # A worker that finds the disk full fails its cell, which is measured again.
            before = {name for name in found if not name.startswith("validate.")}
            ends.add(len(found))
        remount("size=50m")
        ended = run(recipe, "--json")
    assert set(cells(ended).values()) == {("ok", "")}
    assert {name for name, cached in stages(ended).items() if cached} >= before
    assert len(ends) > 5  # else the sizes above no longer meet different stages


def limited(kilobytes: int, recipe: Path) -> Ended:
    """A run that may write no file larger than this."""
    command = [sys.executable, "-m", "kdedge", "run", str(recipe), "--workspace", str(recipe.parent / "workspace")]
    limit = f'ulimit -f {kilobytes} && exec "$@"'
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "TMPDIR": str(recipe.parent)}
    ended = subprocess.run(["bash", "-c", limit, "limited", *command], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.skipif(shutil.which("bash") is None, reason="the limit is set by bash")
def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    ended = limited(10, recipe)  # the training images fit, the checkpoint of the teacher does not
    refused(ended, "workspace error", "teacher.obtain", str(tmp_path / "workspace"), "File too large", "finished stages are kept")
    assert list(stages(ended)) == ["prepare.prepare"]
    assert run(recipe, command="distill").code == 0


def test_a_device_that_is_named_twice_is_measured_once(finished: Path, workspace: Path) -> None:
    ended = kdedge("validate", finished, "--workspace", workspace, "--json", "--on", "local", "--on", "local")
    assert len(json.loads(ended.out.splitlines()[-1])["artifacts"]) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to write to")
def test_outputs_that_cannot_be_written_are_no_traceback(finished: Path, workspace: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -m kdedge distill {shlex.quote(str(finished))} --workspace {shlex.quote(str(workspace))}"
    for streams, code, said in (("> /dev/full", 2, "system error: No space left on device"), ("2>&-", 0, "student: "), (">&-", 0, "trainer.distill")):
        ended = subprocess.run(["sh", "-c", f"{line} {streams}"], capture_output=True, text=True)
        assert "Traceback" not in ended.stderr
        assert ended.returncode == code, ended.stderr
        assert said in ended.stdout + ended.stderr
    ended = subprocess.run(["sh", "-c", f"{shlex.quote(sys.executable)} -m kdedge recipe check nowhere.yaml >&-"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr


@pytest.mark.parametrize("arguments", ["distill {recipe} --workspace {workspace} --json", "recipe schema", "--help"])
def test_a_reader_who_leaves_is_no_verdict(arguments: str, finished: Path, workspace: Path) -> None:
    line = arguments.format(recipe=shlex.quote(str(finished)), workspace=shlex.quote(str(workspace)))
    # The reader is gone before anything is written.
    pipe = f"set -o pipefail; {{ sleep 0.3; {shlex.quote(sys.executable)} -m kdedge {line}; }} | true"
    ended = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


def test_a_terminal_that_lacks_a_letter_gets_its_number(tmp_path: Path) -> None:
    recipe = write(tmp_path, gate={"latency_median": "<= 5 µs", "größe": "<= 1 MB"})
    ended = started("run", recipe, "--workspace", "workspace", folder=tmp_path, environment={"PYTHONIOENCODING": "ascii"})
    refused(ended, "gate.gr\\xf6\\xdfe")


# ---- Ctrl-C and kill -9 ----------------------------------------------------------------------------------------------------


def begun(command: str, recipe: Path, workspace: Path, *settings: str) -> subprocess.Popen[str]:
    """The program in the background, in a process group of its own, as a terminal would start it."""
    sets = [word for setting in settings for word in ("--set", setting)]
    line = [sys.executable, "-m", "kdedge", command, str(recipe), "--workspace", str(workspace), "--json", *sets]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, text=True, env=environment, start_new_session=True, **streams)


def ended_after(process: subprocess.Popen[str], moment: Callable[[], Any], blow: Callable[[], Any]) -> Ended:
    """How a program ended that was struck at a moment of its work."""
    try:
        assert whole_runs.until(lambda: moment() or process.poll() is not None, 120)
        assert process.poll() is None, process.communicate()[1]
        blow()
        out, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return Ended(process.returncode, out, err)


def interrupted(process: subprocess.Popen[str], moment: Callable[[], Any]) -> Ended:
    """Ctrl-C, which reaches the whole group."""
    return ended_after(process, moment, lambda: os.killpg(process.pid, signal.SIGINT))


def terminated(process: subprocess.Popen[str], moment: Callable[[], Any]) -> Ended:
    """SIGTERM, as CI and service managers send it: to the program alone."""
    return ended_after(process, moment, process.terminate)


# Whether answers are kept is decided from measured times, and what is compared here is compared to the bit.
LONG_TRAINING = ("distill.epochs=60", "distill.checkpoint_seconds=0", "distill.cache={use: never}")
LONG_PROFILE = ("profile.min_seconds=30",)


def student(workspace: Path) -> str:
    """The hash of the student of the long training."""
    (folder,) = (path for path in workspace.glob("stages/trainer.distill-*") if (path / "metrics.jsonl").read_text().count("\n") > 1)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_ctrl_c_in_training_keeps_what_is_finished_and_the_next_run_ends_in_the_same_student(finished: Path, workspace: Path, tmp_path: Path) -> None:
    unbroken = Path(shutil.copytree(workspace, tmp_path / "unbroken"))
    attempts = workspace / "partial"
    process = begun("run", finished, workspace, *LONG_TRAINING)
    ended = interrupted(process, lambda: list(attempts.glob("trainer.distill-*/checkpoint.previous.bin")))
    refused(ended, "interrupted: finished stages are kept; run the same command again to go on")
    assert ended.err.splitlines()[-1].startswith("interrupted: ")
    assert stages(ended) == {"prepare.prepare": True, "teacher.obtain": True}
    assert list(attempts.glob("trainer.distill-*/checkpoint.bin"))
    # Processes like the first one: sums are split by threads.
    for place in (workspace, unbroken):
        out, err = begun("distill", finished, place, *LONG_TRAINING).communicate()
        assert not stages(Ended(0, out, err))["trainer.distill"]
    assert student(workspace) == student(unbroken)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The workers that time something now."""
    return [child for child, line in whole_runs.descendants(process.pid).items() if "kdedge.runtimes.worker" in line and "launches.profile" in line]


@pytest.mark.parametrize("how", [interrupted, terminated])
def test_ctrl_c_or_sigterm_in_a_measurement_leaves_no_worker_behind(how: Callable[..., Ended], finished: Path, workspace: Path) -> None:
    process = begun("run", finished, workspace, *LONG_PROFILE)
    ended = how(process, lambda: workers(process))
    refused(ended, "interrupted: finished stages are kept")
    assert stages(ended)["validate.validate onnxruntime-x86 fp32 on local"]
    # A killed worker's memory is given back by the kernel after its parent has gone on.
    assert whole_runs.until(lambda: not whole_runs.alive_in(workspace), 10), whole_runs.alive_in(workspace)
    assert whole_runs.leftovers(workspace) == []


def test_a_killed_worker_fails_its_cell_and_is_tried_again(finished: Path, workspace: Path) -> None:
    process = begun("profile", finished, workspace, *LONG_PROFILE)

    def kill() -> None:
        for worker in workers(process):
            os.kill(worker, signal.SIGKILL)

    ended = ended_after(process, lambda: workers(process), kill)
    status, reason = cells(ended, code=1)["onnxruntime-x86 fp32"]
    assert status == "failed"
    assert "signal 9" in reason
    # The next attempt is interrupted, for it would take its time: that it was begun is what counts.
    process = begun("profile", finished, workspace, *LONG_PROFILE)
    again = stages(interrupted(process, lambda: workers(process)))
    assert again
    assert all(again.values())


# ---- a package that is not installed ---------------------------------------------------------------------------------------

# As if the packages were not installed, for every Python that has this folder on its path (`only` names a variable that must be set).
_WITHOUT = """
import os
from importlib.machinery import PathFinder
if {only!r} == "" or {only!r} in os.environ:
    _find = PathFinder.find_spec.__func__
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else _find(cls, name, path, target)
    PathFinder.find_spec = classmethod(find_spec)
"""


def without(*names: str, folder: Path, only: str = "") -> dict[str, str]:
    """The environment of a Python that has not installed some packages."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_WITHOUT.format(only=only, names=names))
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


def elsewhere(finished: Path, workspace: Path, command: str, target: str, environment: dict[str, str]) -> Ended:
    """The finished recipe, taken further for another target in another environment."""
    setting = f"export=[{{target: {target}, precision: [fp32], batch: 2}}]"
    return started(command, finished, "--workspace", workspace, "--json", "--set", setting, folder=workspace, environment=environment)


@pytest.mark.parametrize(
    ("missing", "target", "extra"),
    [("openvino", "openvino", "openvino"), ("onnxruntime", "onnxruntime-x86", "onnx"), ("matplotlib", "onnxruntime-x86", "report")],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it_before_anything_is_done(
    missing: str, target: str, extra: str, finished: Path, workspace: Path, tmp_path: Path
) -> None:
    environment = without(missing, folder=tmp_path / "site")
    ended = elsewhere(finished, workspace, "run", target, environment)
    refused(ended, f"`{missing}`", "not installed", f"pip install 'kdedge[{extra}]'")
    assert stages(ended) == {}
    # Training alone needs none of them.
    assert stages(elsewhere(finished, workspace, "distill", target, environment)) == dict.fromkeys(DISTILLED, True)


def test_a_missing_torch_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    recipe = write(tmp_path)
    environment = without("torch", folder=tmp_path / "site")
    ended = started("run", recipe, "--workspace", tmp_path / "workspace", folder=tmp_path, environment=environment)
    refused(ended, "`torch`", "not installed", "pip install 'kdedge[train]'")
    assert stages(ended) == {}


def test_a_runtime_that_the_worker_lacks_leaves_its_cell_unrun(finished: Path, workspace: Path, tmp_path: Path) -> None:
    environment = without("openvino", folder=tmp_path / "site", only="KDEDGE_PARENT")
    ended = elsewhere(finished, workspace, "validate", "openvino", environment)
    assert cells(ended) == {"openvino fp32": ("not-run", "openvino is not installed: pip install openvino")}
