"""What went wrong is a sentence on standard error and an exit code, never a traceback."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from command_line import Program

from kdedge import errors
from kdedge.cli.errors import EXTRAS, ended_as_by_ctrl_c, explained


def ending(error: BaseException, debug: bool = False) -> int:
    with pytest.raises(SystemExit) as ended, explained(debug):
        raise error
    code = ended.value.code
    assert isinstance(code, int)
    return code


KINDS = {
    errors.RecipeError: 2,
    errors.DataError: 2,
    errors.ModelError: 2,
    errors.TrainingError: 2,
    errors.Diverged: 2,
    errors.ExportError: 2,
    errors.DialectError: 2,
    errors.DeviceError: 2,
    errors.Disconnected: 2,
    errors.DeviceGone: 2,
    errors.DeviceTaken: 2,
    errors.DeviceUnresponsive: 2,
    errors.MeasurementError: 4,
    errors.BundleError: 2,
    errors.WorkspaceError: 2,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_is_its_kind_and_its_sentence_and_the_code_of_its_class(kind: type[errors.KdedgeError], capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(kind("recipe.yaml:3: what is wrong; what to do")) == KINDS[kind]
    written = capsys.readouterr()
    assert written.err == f"{kind.kind}: recipe.yaml:3: what is wrong; what to do\n"
    assert written.out == ""


def test_a_name_out_of_a_file_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    named = "`evil\x1b[2Jnode\r\x07\u202e [red]µ[/red]` is not finite:\n  second line"
    assert ending(errors.ExportError(named)) == 2
    assert capsys.readouterr().err == "export error: `evil\\x1b[2Jnode\\r\\x07\\u202e [red]µ[/red]` is not finite:\n  second line\n"


def test_every_kind_of_error_is_in_the_table() -> None:
    found = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.KdedgeError)}
    assert found == {*KINDS, errors.KdedgeError, errors.MissingExtra}


def test_a_missing_module_is_named_with_the_extra_that_brings_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(errors.MissingExtra("openvino", "openvino", "the openvino target")) == 2
    assert "pip install 'kdedge[openvino]'" in capsys.readouterr().err
    for module, extra in EXTRAS.items():
        assert ending(ModuleNotFoundError(name=f"{module}.inner")) == 2
        assert f"needs `{module}`, which is not installed; it comes with: pip install 'kdedge[{extra}]'" in capsys.readouterr().err
    assert ending(ModuleNotFoundError(name="mine")) == 2
    assert capsys.readouterr().err == "the module `mine` is not installed\n"


def test_every_extra_that_is_named_is_one_of_the_package() -> None:
    from importlib.metadata import metadata

    assert set(EXTRAS.values()) <= set(metadata("kdedge").get_all("Provides-Extra") or ())


def test_ctrl_c_says_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt()) == 2
    assert "finished stages are kept" in capsys.readouterr().err


@contextmanager
def others_hear() -> Iterator[list[int]]:
    """Who hears of SIGTERM where kdedge does not: else it would end the tests."""
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        yield heard
    finally:
        signal.signal(signal.SIGTERM, before)


WORK = {
    "run": ("kdedge.api.run_pipeline", ()),
    "profile": ("kdedge.api.run_pipeline", ()),
    "tune": ("kdedge.api.search", ()),
    "quantize": ("kdedge.cli.quantizing.quantize_and_tell", ("--dialect", "openvino", "--data", "x.npz", "-o", "out.onnx")),
}


@pytest.mark.parametrize("command", WORK)
def test_sigterm_ends_every_command_as_ctrl_c_does(command: str, kdedge: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    place, options = WORK[command]
    monkeypatch.setattr("kdedge.api.read_recipe", lambda *_: (None, None))
    monkeypatch.setattr(place, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    with others_hear() as heard:
        ended = kdedge(command, "given.yaml", *options)
        assert (ended.code, heard) == (2, [])
        assert ended.err.endswith("interrupted: finished stages are kept; run the same command again to go on\n")
        signal.raise_signal(signal.SIGTERM)  # the handler of before is back
        assert heard == [signal.SIGTERM]


def test_sigterm_stays_as_it_was_where_it_is_ignored_or_cannot_be_heard() -> None:
    def unchanged() -> bool:
        before = signal.getsignal(signal.SIGTERM)
        with ended_as_by_ctrl_c():
            return signal.getsignal(signal.SIGTERM) == before

    assert not unchanged()
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(unchanged()))
    thread.start()
    thread.join()
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert (found, unchanged()) == ([True], True)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_lack_of_memory_or_of_a_file_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(MemoryError("Unable to allocate 27.3 TiB")) == 2
    assert capsys.readouterr().err == "out of memory: Unable to allocate 27.3 TiB; finished stages are kept\n"
    allocator = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503 bytes. Error code 12"
    )
    for torch_says in (allocator, "Storage size calculation overflowed with sizes=[1099511627776, 1099511627776]"):
        assert ending(RuntimeError(torch_says)) == 2
        assert capsys.readouterr().err == f"out of memory: {torch_says}; finished stages are kept\n"
    assert ending(OSError(28, "No space left on device", "report.html")) == 2
    assert capsys.readouterr().err == "system error: No space left on device: report.html\n"


def test_what_nobody_foresaw_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(ZeroDivisionError("division by zero")) == 2
    written = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in written
    assert "Traceback" not in written


@pytest.mark.parametrize("error", [errors.RecipeError("wrong"), KeyboardInterrupt(), ValueError("?"), ModuleNotFoundError(name="torch")])
def test_debug_lets_the_traceback_through(error: BaseException) -> None:
    with pytest.raises(type(error)), explained(True):
        raise error


def test_what_is_not_an_error_passes() -> None:
    with explained(False):
        pass
    with pytest.raises(SystemExit) as ended, explained(False):
        raise SystemExit(3)
    assert ended.value.code == 3
