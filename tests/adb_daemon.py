"""A phone for tests: the device's side of adb on loopback, which the real adb client and server talk to.

Protocol after AOSP's `packages/modules/adb/protocol.txt`, `SYNC.TXT` and `shell_service.h` (shell protocol v2): CNXN, AUTH, OPEN, OKAY, WRTE,
CLSE; services `shell`, `sync`; own code. Files are jailed in a folder: what the client names outside of it is refused. Commands run by the host's
shell as a session of their own, as adbd does, with the jail's `bin` first on the PATH; `/sys/` and `/proc/cpuinfo` in a command mean the jail's.
`wrap` turns the names of programs into others (an arm64 Python through qemu).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION, MAX_PAYLOAD = 0x01000001, 1 << 18
CNXN, AUTH, OPEN, OKAY, CLSE, WRTE = (int.from_bytes(word, "little") for word in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE"))
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
STAT2 = "<4sIQQIIIIQqqq"

PROPERTIES = {
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.manufacturer": "Maker",
    "ro.product.model": "Test Phone",
    "ro.product.device": "testphone",
    "ro.soc.manufacturer": "Silicon",
    "ro.soc.model": "SC8",
    "ro.build.version.release": "15",
    "ro.build.fingerprint": "maker/shop/testphone:15/AP4A.1/12345:user/release-keys",
    "ro.serialno": "SECRETSERIAL",
}


@dataclass
class Faults:
    """What goes wrong from now on. Counts go down as they are used.

    `drops`: so many of the next services break the connection, after `drop_after` bytes of output. `offline`: connections are taken and not
    answered. `unauthorized`: no key is good enough. `silent`: services are opened and say nothing. `delay`: seconds before every answer.
    `free_bytes`: what still fits into the storage. `damage`: the last byte of the next file that arrives is another one.
    """

    drops: int = 0
    drop_after: int = 0
    drop_service: str = ""
    offline: bool = False
    unauthorized: bool = False
    silent: bool = False
    delay: float = 0.0
    free_bytes: int | None = None
    damage: bool = False


@dataclass
class Phone:
    """The daemon: `start()` listens on a free port of loopback, `stop()` ends it.

    `received`: bytes that came as contents of files. `path`: where commands are looked for, "" for its own `bin` and the host's. `services`: what
    was asked for, in order. `break_when`: connections break as soon as a file of that name is there, once.
    """

    root: Path
    properties: dict[str, str] = field(default_factory=lambda: dict(PROPERTIES))
    features: str = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"
    faults: Faults = field(default_factory=Faults)
    received: int = 0
    port: int = 0
    path: str = ""
    break_when: Path | None = None
    services: list[str] = field(default_factory=list)
    groups: set[int] = field(default_factory=set)
    connections: set[Any] = field(default_factory=set)

    def start(self) -> Phone:
        (self.root / "bin").mkdir(parents=True, exist_ok=True)
        lines = "".join(f"[{name}]: [{value}]\n" for name, value in self.properties.items())
        self.program("getprop", f"cat <<'END'\n{lines}END\n")
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._wait(self.listen())
        return self

    def stop(self) -> None:
        self._wait(self._close())
        for group in self.groups:  # what a test that failed left running
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def program(self, name: str, script: str) -> Path:
        """A program of the phone, as a shell script (or with its own first line)."""
        path = self.root / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        return path

    def cut(self) -> None:
        """Break every connection now."""
        self._wait(self._cut())

    def breaks(self) -> bool:
        """Whether it is time for `break_when`."""
        if self.break_when is None or not self.break_when.exists():
            return False
        self.break_when = None
        return True

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    def unplug(self) -> None:
        """Break every connection and take no other."""
        self._wait(self._close())

    def plug(self) -> None:
        self._wait(self.listen())

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    async def _cut(self) -> None:
        for connection in list(self.connections):
            connection.writer.transport.abort()

    async def _close(self) -> None:
        self.server.close()
        await self._cut()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, reader, writer)
        self.connections.add(connection)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await connection.serve()
        self.connections.discard(connection)
        writer.transport.abort()


class Connection:
    """One transport: messages, and the streams that were opened through it."""

    def __init__(self, phone: Phone, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.phone, self.reader, self.writer = phone, reader, writer
        self.streams: dict[int, Stream] = {}
        self.opened = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        self.writer.write(struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF) + data)

    async def serve(self) -> None:
        while True:
            command, first, second, length, _, _ = struct.unpack("<6I", await self.reader.readexactly(24))
            data = await self.reader.readexactly(length)
            if command in (CNXN, AUTH):
                self._greet()
            elif command == OPEN:
                self._open(first, data.rstrip(b"\0").decode(errors="surrogateescape"))
            elif command == WRTE and second in self.streams:
                self.streams[second].arrived(data)
                self.send(OKAY, second, first)
            elif command == OKAY and second in self.streams:
                self.streams[second].acknowledged.set()
            elif command == CLSE and second in self.streams:
                self.streams.pop(second).ended()

    def _greet(self) -> None:
        if self.phone.faults.offline:
            return
        if self.phone.faults.unauthorized:
            self.send(AUTH, 1, 0, bytes(20))
            return
        told = "".join(f"{name}={self.phone.properties.get(name, '')};" for name in ("ro.product.name", "ro.product.model", "ro.product.device"))
        self.send(CNXN, VERSION, MAX_PAYLOAD, f"device::{told}features={self.phone.features}".encode())

    def _open(self, peer: int, service: str) -> None:
        self.opened += 1
        stream = Stream(self, self.opened, peer)
        self.streams[stream.number] = stream
        self.phone.services.append(service)
        self.send(OKAY, stream.number, peer)
        if not self.phone.faults.silent:
            task = asyncio.get_running_loop().create_task(self._service(stream, service))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _service(self, stream: Stream, service: str) -> None:
        faults = self.phone.faults
        if faults.drops > 0 and service.startswith(faults.drop_service):
            faults.drops -= 1
            stream.budget = faults.drop_after
            if not stream.budget:
                self.writer.transport.abort()
                return
        with contextlib.suppress(EOFError, ConnectionError):
            if service.startswith("shell"):
                await shell(stream, service)
            elif service.startswith("sync:"):
                await Sync(stream).serve()
        if self.streams.pop(stream.number, None):
            self.send(CLSE, stream.number, stream.peer)


class Stream:
    """One service's two-way stream; a write is over when the other side has acknowledged it."""

    def __init__(self, connection: Connection, number: int, peer: int) -> None:
        self.connection, self.number, self.peer = connection, number, peer
        self.acknowledged = asyncio.Event()
        self.budget: int | None = None
        self._data = bytearray()
        self._more = asyncio.Event()
        self._over = False

    def arrived(self, data: bytes) -> None:
        self._data += data
        self._more.set()

    def ended(self) -> None:
        self._over = True
        self._more.set()
        self.acknowledged.set()

    async def read(self, count: int) -> bytes:
        while len(self._data) < count:
            if self._over:
                raise EOFError
            self._more.clear()
            await self._more.wait()
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), MAX_PAYLOAD):
            if self._over:
                raise EOFError
            if self.budget is not None:
                self.budget -= min(len(data) - start, MAX_PAYLOAD)
                if self.budget <= 0:
                    self.connection.writer.transport.abort()
                    raise EOFError
            if self.connection.phone.breaks():
                self.connection.writer.transport.abort()
                raise EOFError
            if self.connection.phone.faults.delay:
                await asyncio.sleep(self.connection.phone.faults.delay)
            self.acknowledged.clear()
            self.connection.send(WRTE, self.number, self.peer, data[start : start + MAX_PAYLOAD])
            await self.acknowledged.wait()


async def shell(stream: Stream, service: str) -> None:
    """A command by the host's shell; by protocol v2 with its streams apart and its exit code, else as through a terminal."""
    phone = stream.connection.phone
    head, _, command = service.partition(":")
    second = ",v2" in head
    for path in ("/sys/", "/proc/cpuinfo"):
        if (phone.root / path.strip("/")).exists():
            command = command.replace(path, f"{phone.root}{path}")
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", command),
        cwd="/",
        env={"PATH": phone.path or f"{phone.root}/bin:/usr/bin:/bin", "HOME": "/", "ANDROID_ROOT": "/system"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if second else asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    phone.groups.add(process.pid)
    lock = asyncio.Lock()

    async def pump(source: asyncio.StreamReader | None, kind: int) -> None:
        while source is not None and (data := await source.read(32768)):
            data = data.replace(f"{phone.root}/sys/".encode(), b"/sys/")
            async with lock:
                await stream.write(struct.pack("<BI", kind, len(data)) + data if second else data.replace(b"\n", b"\r\n"))

    await asyncio.gather(pump(process.stdout, STDOUT), pump(process.stderr, STDERR))
    code = await process.wait()
    phone.groups.discard(process.pid)
    if second:
        await stream.write(struct.pack("<BIB", EXIT, 1, (128 - code if code < 0 else code) & 255))


class Sync:
    """File transfer."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.phone = stream, stream.connection.phone

    async def serve(self) -> None:
        while True:
            word, length = struct.unpack("<4sI", await self.stream.read(8))
            name = (await self.stream.read(length)).decode(errors="surrogateescape")
            if word == b"QUIT":
                return
            await {
                b"STAT": self.stat,
                b"STA2": self.stat2,
                b"LST2": self.stat2,
                b"LIST": self.list,
                b"LIS2": self.list2,
                b"SEND": self.receive,
                b"RECV": self.send,
            }[word](name, word)

    def path(self, name: str) -> Path:
        path = Path(os.path.normpath(name))
        if not path.is_relative_to(self.phone.root):
            raise PermissionError(13, "Permission denied")
        return path

    async def fail(self, text: str) -> None:
        await self.stream.write(struct.pack("<4sI", b"FAIL", len(text.encode())) + text.encode())

    async def stat(self, name: str, word: bytes) -> None:
        try:
            found = self.path(name).stat()
            answer = (found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))
        except OSError:
            answer = (0, 0, 0)
        await self.stream.write(struct.pack("<4s3I", word, *answer))

    async def stat2(self, name: str, word: bytes) -> None:
        try:
            answer = struct.pack(STAT2, word, 0, *_long(self.path(name), word == b"STA2"))
        except OSError as error:
            answer = struct.pack(STAT2, word, error.errno or 1, *(0,) * 10)
        await self.stream.write(answer)

    async def list(self, name: str, word: bytes) -> None:
        with contextlib.suppress(OSError):
            for child in sorted(self.path(name).iterdir()):
                found, label = child.lstat(), os.fsencode(child.name)
                head = struct.pack("<4s4I", b"DENT", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime), len(label))
                await self.stream.write(head + label)
        await self.stream.write(struct.pack("<4s4I", b"DONE", 0, 0, 0, 0))

    async def list2(self, name: str, word: bytes) -> None:
        with contextlib.suppress(OSError):
            for child in sorted(self.path(name).iterdir()):
                label = os.fsencode(child.name)
                await self.stream.write(struct.pack(STAT2 + "I", b"DNT2", 0, *_long(child, False), len(label)) + label)
        await self.stream.write(struct.pack(STAT2 + "I", b"DONE", 0, *(0,) * 11))

    async def receive(self, argument: str, word: bytes) -> None:
        name, _, mode = argument.rpartition(",")
        trouble, data = "", bytearray()
        while True:
            kind, length = struct.unpack("<4sI", await self.stream.read(8))
            if kind == b"DONE":
                break
            data += await self.stream.read(length)
            self.phone.received += length
        faults = self.phone.faults
        if faults.free_bytes is not None and len(data) > faults.free_bytes:
            trouble = "No space left on device"
        if faults.damage and data:
            faults.damage = False
            data[-1] ^= 1
        try:
            target = self.path(name)
            if not trouble and stat.S_ISLNK(int(mode)):
                trouble = "symlink failed: Operation not permitted"
            if not trouble:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                target.chmod(int(mode) & 0o777)
        except OSError as error:
            trouble = f"couldn't create file: {error.strerror}"
        if trouble:
            await self.fail(trouble)
        else:
            await self.stream.write(struct.pack("<4sI", b"OKAY", 0))

    async def send(self, name: str, word: bytes) -> None:
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            await self.fail(f"open failed: {error.strerror}")
            return
        for start in range(0, len(data), 1 << 16):
            part = data[start : start + (1 << 16)]
            await self.stream.write(struct.pack("<4sI", b"DATA", len(part)) + part)
        await self.stream.write(struct.pack("<4sI", b"DONE", 0))


def _long(path: Path, follow: bool) -> tuple[int, ...]:
    found = path.stat() if follow else path.lstat()
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    return (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size, *times)
