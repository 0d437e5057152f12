"""The lines of `metrics.jsonl` as TensorBoard shows them, written while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdedge.errors import MissingExtra


class Board:
    """Writes event files into `folder/run`. They hold times of day, so they lie outside of what a stage made. What a killed attempt wrote about
    the steps after `done` is not shown any more.

    Raises:
        MissingExtra: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, run: str, done: int = 0) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise MissingExtra("tensorboardX", "tensorboard", "writing TensorBoard files") from error
        # The suffix keeps the file of an attempt that began in the same second.
        self._writer = SummaryWriter(str(folder / run.replace(" ", "-")), purge_step=done + 1 if done else None, filename_suffix=f".{done}")

    def write(self, line: Mapping[str, Any]) -> None:
        """One line of metrics: the loss, the learning rate, and each term before and after weighting, at its step."""
        step = line["step"]
        self._writer.add_scalar("loss", line["loss"], step)
        self._writer.add_scalar("learning_rate", line["lr"], step)
        for name, values in line["terms"].items():
            for kind, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """End the event file."""
        self._writer.close()
