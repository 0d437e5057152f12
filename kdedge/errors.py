"""What can go wrong, as sentences. One class a kind of reader; the command line prints the sentence and exits with the class's code."""

from __future__ import annotations


class KdedgeError(Exception):
    """Base of every error that kdedge raises on purpose: its message is complete and is shown without a traceback."""

    exit_code = 2
    kind = "error"


class RecipeError(KdedgeError):
    """The recipe is wrong: the message names file, line, key, what was found and what is allowed."""

    kind = "recipe error"


class DataError(KdedgeError):
    """Input data cannot be used: the message names the file, split or example."""

    kind = "data error"


class ModelError(KdedgeError):
    """A model cannot be built, loaded or run: the message names the model and the key, tensor or file."""

    kind = "model error"


class TrainingError(KdedgeError):
    """Training cannot go on (a NaN loss, class counts that differ); the last good state is kept."""

    kind = "training error"


class Diverged(TrainingError):
    """A loss or a weight became infinite or no number: these losses and this optimizer do not train."""


class ExportError(KdedgeError):
    """A graph cannot be exported or lowered for a target, or it differs from what it came from."""

    kind = "export error"


class DialectError(ExportError):
    """A graph breaks the grammar of a dialect: the message lists node and reason."""

    kind = "dialect error"


class DeviceError(KdedgeError):
    """A device cannot be opened or used."""

    kind = "device error"


class Disconnected(DeviceError):
    """The connection to a device broke, or could not be made; it may come back."""


class DeviceGone(DeviceError):
    """A device is not there any more, or refuses us: trying again is useless."""


class DeviceUnresponsive(DeviceError):
    """A device is connected and does not answer in time."""


class DeviceTaken(DeviceError):
    """Another host has a device now; it will be free again."""


LOST = (Disconnected, DeviceGone, DeviceUnresponsive, DeviceTaken)
"""What says of a device that it could not be measured on, and nothing of what was to be measured."""


class MeasurementError(KdedgeError):
    """A measurement is invalid (throttled, device lost, environment mismatch)."""

    exit_code = 4
    kind = "measurement error"


class BundleError(KdedgeError):
    """A bundle is damaged, incomplete or tries to leave its folder."""

    kind = "bundle error"


class WorkspaceError(KdedgeError):
    """The workspace cannot be read or written (disk full, permissions, damaged record)."""

    kind = "workspace error"


class MissingExtra(KdedgeError):
    """An optional dependency is not installed: the message names the extra that brings it."""

    kind = "missing dependency"

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs `{module}`, which is not installed; it comes with: pip install 'kdedge[{extra}]'")
        self.module = module
        self.extra = extra
