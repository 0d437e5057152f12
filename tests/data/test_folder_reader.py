from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdedge.data import open_examples
from kdedge.data.folder import read
from kdedge.data.images import decode
from kdedge.errors import DataError, MissingExtra


def put(path: Path, size: tuple[int, int] = (6, 4), seed: int = 0, **options: object) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Save a random image (size is width, height) and return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return pixels


def test_images_are_read_in_turn_by_class_and_opened_again(tmp_path: Path) -> None:
    root, stage = tmp_path / "images", tmp_path / "stage"
    stage.mkdir()
    pixels = {name: put(root / name, seed=seed) for seed, name in enumerate(["b/1.png", "a/deep/2.PNG", "a/1.bmp", "a/3.webp"])}
    put(root / "a/3.webp", seed=3, lossless=True)
    (root / "a/notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    found = read(str(root), "train", stage, None, None)
    opened = open_examples(found.source)
    assert list(opened.ids) == ["a/1.bmp", "b/1.png", "a/3.webp", "a/deep/2.PNG"]
    assert opened.labels.tolist() == [0, 1, 0, 0]
    assert found.classes == ("a", "b")
    assert np.array_equal(opened.raw(np.array([3, 1])), np.stack([pixels["a/deep/2.PNG"], pixels["b/1.png"]]))
    assert found.images is not None
    assert found.images.size == (4, 6)
    assert str(tmp_path) not in (stage / "train-index.json").read_text()
    assert list(read(str(root), "train", stage, 2, None).ids) == ["a/1.bmp", "b/1.png"]


def test_images_of_several_sizes_come_as_a_list(tmp_path: Path) -> None:
    first, second = put(tmp_path / "r/a/1.png", (6, 4)), put(tmp_path / "r/b/1.png", (3, 7), seed=1)
    opened = open_examples(read(str(tmp_path / "r"), "train", tmp_path, None, None).source)
    raw = opened.raw(np.array([1, 0]))
    assert isinstance(raw, list)
    assert all(np.array_equal(a, b) for a, b in zip(raw, [second, first], strict=True))


def test_many_images_keep_their_order_through_the_threads(tmp_path: Path) -> None:
    pixels = [put(tmp_path / f"r/a/{number:03}.png", (3, 2), seed=number) for number in range(40)]
    opened = open_examples(read(str(tmp_path / "r"), "train", tmp_path, None, None).source)
    assert np.array_equal(opened.raw(np.arange(40)), np.stack(pixels))


def test_an_image_stands_upright_as_its_exif_says(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, :] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    upright = decode(stream.getvalue(), "turned.png")
    assert upright.shape == (6, 4, 3)
    assert (upright[:, -1] == 255).all()
    assert (upright[:, :-1] == 0).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_8_bit_mode_becomes_rgb(mode: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), (200, 200, 200)).convert(mode).save(stream, "TIFF" if mode == "CMYK" else "PNG")
    assert decode(stream.getvalue(), "image").shape == (2, 3, 3)


def test_an_image_of_more_than_8_bits_is_refused_and_not_clipped() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(stream, "PNG")
    with pytest.raises(DataError, match=r"deep\.png: pixels of mode `I;16` hold more than 8 bits"):
        decode(stream.getvalue(), "deep.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_damaged_image_is_a_data_error_that_names_it_or_still_an_image(kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(stream, kind)
    whole = stream.getvalue()
    with pytest.raises(DataError, match=r"cut\.img"):
        decode(whole[: len(whole) // 2], "cut.img")
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] ^= int(rng.integers(1, 256))
        try:
            assert decode(bytes(damaged), "bad.img").shape[2] == 3
        except DataError as error:
            assert "bad.img" in str(error)  # noqa: PT017


def test_an_unreadable_image_is_named_before_training_begins(tmp_path: Path) -> None:
    put(tmp_path / "r/a/1.png")
    (tmp_path / "r/a/2.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=rf"{tmp_path}/r/a/2\.jpg is not an image that can be read"):
        read(str(tmp_path / "r"), "train", tmp_path, None, None)


def test_a_file_that_vanishes_later_is_named(tmp_path: Path) -> None:
    put(tmp_path / "r/a/1.png")
    source = read(str(tmp_path / "r"), "train", tmp_path, None, None).source
    opened = open_examples(source)
    (tmp_path / "r/a/1.png").unlink()
    with pytest.raises(DataError, match=r"a/1\.png cannot be read: No such file"):
        opened.raw(np.array([0]))
    (tmp_path / "r/a").rmdir()
    (tmp_path / "r").rmdir()
    with pytest.raises(DataError, match="is not there any more"):
        open_examples(source)


def test_a_folder_of_another_form_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        read(str(tmp_path / "none"), "train", tmp_path, None, None)
    put(tmp_path / "flat/1.png")
    with pytest.raises(DataError, match=r"has no class folders; images must lie as flat/CLASS/image\.jpg"):
        read(str(tmp_path / "flat"), "train", tmp_path, None, None)
    (tmp_path / "flat/empty").mkdir()
    with pytest.raises(DataError, match=r"flat/empty holds no image \(known endings: \.jpg"):
        read(str(tmp_path / "flat"), "train", tmp_path, None, None)


def test_a_test_folder_may_lack_classes_but_not_bring_new_ones(tmp_path: Path) -> None:
    put(tmp_path / "r/b/1.png")
    found = read(str(tmp_path / "r"), "test", tmp_path, None, ("a", "b", "c"))
    assert (found.labels.tolist(), found.classes) == ([1], ("a", "b", "c"))
    with pytest.raises(DataError, match=r"r/b: class `b` does not occur in the training split \(its classes: a, c\)"):
        read(str(tmp_path / "r"), "test", tmp_path, None, ("a", "c"))


def test_the_fingerprint_follows_bytes_and_names(tmp_path: Path) -> None:
    put(tmp_path / "r/a/1.png")
    base = read(str(tmp_path / "r"), "train", tmp_path, None, None).source.fingerprint
    put(tmp_path / "r/a/1.png", seed=5)
    changed = read(str(tmp_path / "r"), "train", tmp_path, None, None).source.fingerprint
    put(tmp_path / "r/a/1.png")
    (tmp_path / "r/a/1.png").rename(tmp_path / "r/a/2.png")
    renamed = read(str(tmp_path / "r"), "train", tmp_path, None, None).source.fingerprint
    assert len({base, changed, renamed}) == 3


def test_a_missing_pillow_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "r/a/1.png")
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"reading images needs `PIL`.*kdedge\[train\]"):
        read(str(tmp_path / "r"), "train", tmp_path, None, None)
