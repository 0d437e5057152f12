"""The work of `kdedge devices emulate`."""

from __future__ import annotations

from kdedge import progress
from kdedge.cli.running import listener_of


def emulate(cpu: str, refresh: bool) -> int:
    """Set up an emulated arm64 CPU, ask it what it is, and say how to use it. Returns the exit code.

    Raises:
        DeviceError: there is no such CPU, a tool is missing, or a package cannot be had.
    """
    from kdedge.devices import open_device
    from kdedge.devices.emulated_cpus import cpu_named
    from kdedge.devices.sysroot import cache_folder, find_sysroot, obtain_sysroot

    stands_for = cpu_named(cpu).stands_for
    with listener_of(quiet=False) as (listener, _), progress.listening(listener):
        before = find_sysroot(cache_folder())
        system = obtain_sysroot(cache_folder(), refresh)
        identity = open_device(f"emulated:{cpu}").identity
    how = "was set up before" if before == system else f"set up in {system.seconds:.0f} s"
    facts = identity.fingerprint
    parts = ", ".join(f"{name} {facts[name]}" for name in ("python", *system.wheels) if name in facts)
    print(f"{identity.name} {how}: {facts['os']} with {parts}, by {facts['emulator']}, in {system.folder}")
    print(f"It stands for {stands_for}.")
    print(f"Use it with --on {identity.name}. It shows what is computed there and in which precision, never how fast.")
    return 0
