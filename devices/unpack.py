"""Unpacking what a device sent: plain files and folders only, and none outside the folder that was asked for."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from kdedge.errors import DeviceError


def unpack(archive: IO[bytes], local: Path, device: str) -> None:
    """Unpack a tar archive of one file or folder, which becomes `local` whatever it is called there.

    Raises:
        DeviceError: it is cut off or damaged, holds something that is no file or folder, or a name that leads elsewhere, or cannot be written here.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:") as opened:
            for member in opened:
                _, *inside = PurePosixPath(member.name).parts
                if ".." in inside or member.name.startswith("/") or not (member.isfile() or member.isdir()):
                    raise DeviceError(f"device `{device}`: it sent {member.name!r}, which is no plain file in the folder that was asked for")
                _place(opened, member, local.joinpath(*inside))
    except (tarfile.TarError, ValueError) as error:
        raise DeviceError(f"device `{device}`: what it sent for {local.name} is damaged: {error}") from error
    except OSError as error:
        raise DeviceError(f"device `{device}`: {local} cannot be written: {error.strerror or error}") from error


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    assert content is not None  # it is a file
    partial = path.with_name(f"{path.name}.partial")
    with content, partial.open("wb") as handle:
        shutil.copyfileobj(content, handle)
    partial.replace(path)
