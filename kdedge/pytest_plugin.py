"""A pytest plugin: the fixture `latency_check`, which holds a model's latency against a baseline in a test of the user's own.

    def test_the_model_is_as_fast_as_the_released_one(latency_check):
        latency_check("released", "build/model.onnx", margin="3%", time_budget="60s")

It imports nothing but the standard library and pytest until the fixture is called.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kdedge.regression.checking import CheckReport

OPEN = ("skip", "fail", "pass")
"""What an inconclusive check may do to a test."""
_SETTING = "latency_inconclusive"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting of the ini file."""
    parser.addini(_SETTING, f"what an inconclusive latency_check does to its test: {', '.join(OPEN)}", default="skip")


@pytest.fixture
def latency_check(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., CheckReport]:
    """Call it with a baseline (a file, a bundle, a run's folder or a kept baseline's name) and a candidate; it checks as `kdedge check` does."""

    def run(
        baseline: str | Path,
        candidate: str | Path,
        *,
        margin: str = "3%",
        on: str = "local",
        time_budget: str = "",
        alpha: float = 0.01,
        pairs: int = 16,
        looks: int = 2,
        inputs: str | Path | None = None,
        sizes: tuple[str, ...] = (),
        inconclusive: str = "",
        allow_env_mismatch: bool = False,
        workspace: str | Path | None = None,
        history: str = "none",
    ) -> CheckReport:
        """Fails the test where the candidate regressed, skips it where that cannot be told (`inconclusive`: "skip", "fail" or "pass", else what
        the ini file says), and returns the report otherwise. `workspace`: where baselines are kept, by default `.kdedge` in pytest's root.

        Raises:
            KdedgeError: what is to be compared is not there, the words mean nothing, or the check is invalid (the machine throttled, say).
        """
        __tracebackhide__ = True  # what went wrong stands in the sentence
        doing = _choice(inconclusive or str(request.config.getini(_SETTING)))
        from kdedge.cli.checking import Asked, opened_history, settings_of
        from kdedge.devices import close_devices
        from kdedge.errors import KdedgeError
        from kdedge.regression.arms import Given
        from kdedge.regression.checking import run_check
        from kdedge.regression.wording import headline_of

        names = os.fspath(baseline), os.fspath(candidate)
        kept = Path(workspace) if workspace is not None else request.config.rootpath / ".kdedge"
        try:
            with _alone(request, tmp_path_factory), opened_history(history, kept) as opened:
                try:
                    report = run_check(
                        *names,
                        (on,),
                        settings_of(Asked(*names, (on,), margin, alpha, pairs, looks, time_budget, 0, allow_env_mismatch)),
                        tmp_path_factory.mktemp("latency"),
                        given=Given(None if inputs is None else Path(inputs), sizes),
                        store=kept / "baselines",
                        history=opened,
                    )
                finally:
                    close_devices()  # before another worker's turn; a process that goes on holds no lease, and leaves nothing set
        except KdedgeError as error:
            raise KdedgeError(f"{error.kind}: {error}") from None
        said = f"{report.state}: {headline_of(report)}"
        request.node.user_properties.append(("latency_check", said))
        if report.state == "regressed" or (report.state == "inconclusive" and doing == "fail"):
            pytest.fail(said, pytrace=False)
        if report.state == "invalid":
            raise KdedgeError(said)
        if report.state == "inconclusive" and doing == "skip":
            pytest.skip(said)
        return report

    return run


@contextlib.contextmanager
def _alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of several workers of pytest-xdist one checks at a time: two checks at once would disturb each other."""
    if not hasattr(request.config, "workerinput"):
        yield
        return
    import fcntl

    # The workers' folders for temporary files lie side by side.
    with (tmp_path_factory.getbasetemp().parent / "latency_check.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _choice(text: str) -> str:
    __tracebackhide__ = True
    if text not in OPEN:
        from kdedge.errors import KdedgeError

        raise KdedgeError(f"{_SETTING} = {text}: it is one of {', '.join(OPEN)}")
    return text
