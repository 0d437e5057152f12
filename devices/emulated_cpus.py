"""The CPUs that an emulated device may have, and the system as each of them sees it.

A runtime chooses its kernels by the instruction sets that the kernel announces (AT_HWCAP) and by `/proc/cpuinfo`, and both must be of one CPU:
ONNX Runtime takes a part number for proof of instructions that the emulated CPU may not have (SIGILL), and crashes on the file of an x86 machine.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kdedge.errors import DeviceError


@dataclass(frozen=True)
class Cpu:
    """`model`: what qemu calls it, with what is switched off. The numbers are those of its register MIDR_EL1, from Arm's reference manuals."""

    model: str
    stands_for: str
    implementer: int
    variant: int
    part: int
    revision: int

    @property
    def register(self) -> int:
        """MIDR_EL1: implementer, variant, 0xf (features are told elsewhere), part, revision."""
        return self.implementer << 24 | self.variant << 20 | 0xF << 16 | self.part << 4 | self.revision


CPUS: dict[str, Cpu] = {
    "cortex-a53": Cpu("cortex-a53", "a Raspberry Pi 3 and small boards: no integer dot products, no half precision", 0x41, 0, 0xD03, 4),
    "cortex-a72": Cpu("cortex-a72", "a Raspberry Pi 4: no integer dot products, no half precision", 0x41, 0, 0xD08, 3),
    "cortex-a76": Cpu("cortex-a76", "a Raspberry Pi 5, and near the A78AE of a Jetson Orin: dot products, half precision", 0x41, 4, 0xD0B, 1),
    # No CPU of that number exists, so that what is announced decides alone. With qemu 7.2's SME, ONNX Runtime 1.32 computes wrong products.
    "max": Cpu("max,sme=off", "all that qemu can do but SME: dot products, half precision, i8mm, bf16, SVE2", 0x00, 0, 0x051, 0),
}

# Names of the bits in the kernel's order: arch/arm64/include/uapi/asm/hwcap.h of Linux.
_HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve "
    "asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
_HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 dgh rng bti mte ecv afp rpres "
    "mte3 sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32 smefa64"
)
_AT_HWCAP, _AT_HWCAP2 = 16, 26
# What holds programs and libraries. No more: an empty `/tmp` of the system would hide that of the machine.
_LINKED = ("usr", "lib", "etc", "bin", "sbin")

# Lies in its view and finds it by its own path, so that a finished system can be moved.
_WRAPPER = """\
#!/bin/sh
# Python on an emulated {cpu}, without what the machine's own Python was told.
unset PYTHONHOME PYTHONPATH PYTHONSTARTUP VIRTUAL_ENV LD_LIBRARY_PATH LD_PRELOAD
exec {qemu} -cpu {model} -L "${{0%/*}}" "${{0%/*}}/{python}" "$@"
"""


def cpu_named(name: str) -> Cpu:
    """A row of the table.

    Raises:
        DeviceError: there is no such row.
    """
    if name not in CPUS:
        raise DeviceError(f"there is no emulated CPU `{name}`; there is: {', '.join(CPUS)}")
    return CPUS[name]


def qemu_version(qemu: str) -> str:
    """Of the emulator, `7.2.22` say.

    Raises:
        DeviceError: it cannot be run.
    """
    said = _output([qemu, "--version"], f"{qemu} cannot be run")
    found = re.search(r"version (\d+(?:\.\d+)*)", said)
    return found.group(1) if found else said.partition("\n")[0]


def view_of(folder: Path, python: str, name: str, qemu: str) -> Path:
    """The system in `folder` as the CPU sees it, made at its first use; `python` in it, a script, is the interpreter.

    The emulator decides what a CPU announces, and the machine how many cores there are, so both are part of a view's name.

    Raises:
        DeviceError: there is no such CPU, or the emulator cannot run it.
    """
    cpu_named(name)
    cores = os.cpu_count() or 1
    view = folder / "views" / f"{name}-{cores}-qemu-{qemu_version(qemu)}"
    if (view / "python").exists():
        return view
    try:
        view.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=view.parent, ignore_cleanup_errors=True) as partial:
            made = Path(partial) / "view"
            made.mkdir()
            _fill(made, folder, python, name, qemu, cores)
            made.rename(view)
    except OSError as error:
        if not (view / "python").exists():  # else another process was faster
            raise DeviceError(f"the emulated CPU `{name}` cannot be set up in {view}: {error.strerror or error}") from error
    return view


def _fill(view: Path, folder: Path, python: str, name: str, qemu: str, cores: int) -> None:
    cpu = CPUS[name]
    for part in _LINKED:
        if (folder / "root" / part).exists():
            # As it will be seen from its final place.
            (view / part).symlink_to(Path("../../root") / part)
    _write(view / "proc/cpuinfo", cpuinfo(cpu, cores, announced(folder / "root", python, cpu, qemu)))
    for core in range(cores):  # OpenVINO's kernels read the register here
        _write(view / f"sys/devices/system/cpu/cpu{core}/regs/identification/midr_el1", f"{cpu.register:#018x}\n")
    script = _WRAPPER.format(cpu=name, model=cpu.model, qemu=shlex.quote(qemu), python=python)
    (view / "python").write_text(script, encoding="utf-8")
    (view / "python").chmod(0o755)


def announced(root: Path, python: str, cpu: Cpu, qemu: str) -> list[str]:
    """The instruction sets that a program on the emulated CPU is told of, by the names of `/proc/cpuinfo`.

    Raises:
        DeviceError: the emulator does not know the CPU, or cannot run it.
    """
    script = "import sys; sys.stdout.write(open('/proc/self/auxv', 'rb').read().hex())"
    told = _output(
        [qemu, "-cpu", cpu.model, "-L", str(root), str(root / python), "-S", "-E", "-c", script], f"{qemu} cannot emulate a {cpu.model} here"
    )
    vector = dict(struct.iter_unpack("<QQ", bytes.fromhex(told)))
    return [
        name for key, names in ((_AT_HWCAP, _HWCAP), (_AT_HWCAP2, _HWCAP2)) for bit, name in enumerate(names.split()) if vector.get(key, 0) >> bit & 1
    ]


def cpuinfo(cpu: Cpu, cores: int, features: list[str]) -> str:
    """`/proc/cpuinfo` as Linux writes it on arm64."""
    return "".join(
        f"processor\t: {core}\n"
        "BogoMIPS\t: 100.00\n"
        f"Features\t: {' '.join(features)}\n"
        f"CPU implementer\t: {cpu.implementer:#04x}\n"
        "CPU architecture: 8\n"
        f"CPU variant\t: {cpu.variant:#x}\n"
        f"CPU part\t: {cpu.part:#05x}\n"
        f"CPU revision\t: {cpu.revision}\n\n"
        for core in range(cores)
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def _output(argv: list[str], failed: str) -> str:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError(f"{failed}: {error}") from error
    if done.returncode != 0:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise DeviceError(f"{failed}: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout
