"""onnxruntime-web is taken from npm by its checked package, or from the user's folder, and nothing else is taken out of it."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from kdedge.devices.browser import fetch
from kdedge.errors import DeviceError


def package(path: Path, more: tuple[str, ...] = (), without: str = "", link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in (*(f"package/dist/{name}" for name in fetch.FILES if name != without), "package/package.json", *more):
            member = tarfile.TarInfo(name)
            if link and name.endswith(link):
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(member)
            else:
                member.size = len(name)
                archive.addfile(member, io.BytesIO(name.encode()))
    return path


def sha512(path: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def npm(folder: Path, archive: Path, integrity: str, code: int = 0) -> None:
    """A program `npm` that hands a package over, in the words of the real one (npm 11)."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(
        f"#!/bin/sh\nif [ {code} != 0 ]; then echo 'npm error code E404' >&2; exit {code}; fi\n"
        f'case "$1" in pack) cp {archive} onnxruntime-web-{fetch.VERSION}.tgz; echo onnxruntime-web-{fetch.VERSION}.tgz;; '
        f"view) echo {integrity};; esac\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin{os.pathsep}/usr/bin")
    return tmp_path / "cache" / "kdedge" / f"onnxruntime-web-{fetch.VERSION}"


def test_the_package_is_fetched_once_and_only_named_files_are_kept(cache: Path, tmp_path: Path) -> None:
    archive = package(tmp_path / "p.tgz", more=("package/../../escaped", "/absolute", "package/dist/other.js"))
    npm(tmp_path / "bin", archive, sha512(archive))
    found = fetch.obtain(fetch=True)
    assert (found.folder, found.version) == (cache, fetch.VERSION)
    assert sorted(path.name for path in cache.iterdir()) == sorted(fetch.FILES)
    assert (cache / fetch.FILES[0]).read_text() == f"package/dist/{fetch.FILES[0]}"
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    (tmp_path / "bin" / "npm").unlink()
    assert fetch.obtain().folder == cache


def test_a_package_that_is_not_the_one_of_npms_metadata_is_not_kept(cache: Path, tmp_path: Path) -> None:
    archive = package(tmp_path / "p.tgz")
    npm(tmp_path / "bin", archive, sha512(package(tmp_path / "q.tgz", more=("package/x",))))
    with pytest.raises(DeviceError, match="is not the package that npm's metadata names"):
        fetch.obtain(fetch=True)
    assert not cache.exists()


@pytest.mark.parametrize("integrity", ["", "sha1-abc", "undefined"])
def test_a_registry_that_names_no_sha512_is_refused(cache: Path, tmp_path: Path, integrity: str) -> None:
    npm(tmp_path / "bin", package(tmp_path / "p.tgz"), integrity)
    with pytest.raises(DeviceError, match="npm names no sha512"):
        fetch.obtain(fetch=True)


def test_an_npm_that_fails_says_why(cache: Path, tmp_path: Path) -> None:
    npm(tmp_path / "bin", tmp_path / "none", "", code=1)
    with pytest.raises(DeviceError, match=r"npm pack onnxruntime-web@[0-9.]+ --silent failed: npm error code E404"):
        fetch.obtain(fetch=True)


def test_without_npm_or_without_asking_the_sentence_says_what_helps(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="fetch it from npm with `kdedge devices serve --fetch`, or give a folder"):
        fetch.obtain()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"fetched by npm, which is not installed: install Node\.js"):
        fetch.obtain(fetch=True)


@pytest.mark.parametrize(("without", "link"), [(fetch.FILES[2], ""), ("", fetch.FILES[2])])
def test_a_package_without_a_file_or_with_a_link_in_its_place_is_refused(tmp_path: Path, without: str, link: str) -> None:
    with pytest.raises(DeviceError, match="onnxruntime-web"):
        fetch.unpack(package(tmp_path / "onnxruntime-web.tgz", without=without, link=link), tmp_path / "out")


@pytest.mark.parametrize("inside", ["", "dist", "package.json"])
def test_a_folder_of_the_users_may_be_the_package_or_its_files(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / "dist" if inside else tmp_path
    folder.mkdir(exist_ok=True)
    for name in fetch.FILES:
        (folder / name).write_text("x")
    if inside == "package.json":
        (tmp_path / inside).write_text('{"name": "onnxruntime-web", "version": "1.2.3"}')
    assert fetch.obtain(tmp_path) == fetch.WebRuntime(folder, "1.2.3" if inside == "package.json" else "")
    (folder / fetch.FILES[3]).unlink()
    with pytest.raises(DeviceError, match=rf"it lacks {fetch.FILES[3]}, which lie"):
        fetch.obtain(tmp_path)
