"""Opening pictures: RGB, or one clear line."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from crosslens.data.errors import UserError
from crosslens.data.images import open_image, rgb
from PIL import Image
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "I;16"])
def test_modes_become_rgb(tmp_path, mode):
    path = saved(tmp_path, Image.new(mode, (5, 4)))
    opened = open_image(path)
    assert (opened.mode, opened.size) == ("RGB", (5, 4))


def test_cmyk(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "picture.jpg", quality=100)
    red, green, blue = open_image(path).getpixel((0, 0))
    assert red > 200
    assert max(green, blue) < 60


def test_transparency_is_white(tmp_path):
    path = saved(tmp_path, Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert open_image(path).getpixel((0, 0)) == (255, 255, 255)


def test_one_pixel_and_wide(tmp_path):
    assert open_image(saved(tmp_path, Image.new("RGB", (1, 1)))).size == (1, 1)
    assert open_image(saved(tmp_path, Image.new("RGB", (20_000, 100)))).size == (20_000, 100)
    with pytest.raises(UserError, match="200 times"):
        open_image(saved(tmp_path, Image.new("RGB", (20_000, 10))))


def png16(grey, colours):
    """A PNG of 16 bits a channel, which Pillow cannot write: grey Int[rows, columns] in 1 or 3 equal channels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = np.stack([grey] * colours, -1).astype(">u2")
    head = struct.pack(">IIBBBBB", *grey.shape[::-1], 16, 2 if colours == 3 else 0, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + line.tobytes() for line in pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


@pytest.mark.parametrize("colours", [1, 3])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, colours):
    grey = (np.arange(256) * 257).reshape(16, 16)
    (tmp_path / "deep.png").write_bytes(png16(grey, colours))
    opened = np.asarray(open_image(tmp_path / "deep.png"))
    np.testing.assert_array_equal(opened, np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))


def test_thirty_two_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="mode F"):
        open_image(saved(tmp_path, Image.new("F", (4, 4)), "deep.tiff"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_transformers_turns_them(tmp_path, orientation):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = orientation
    path = saved(tmp_path, picture, "turned.png", exif=exif)
    opened = open_image(path)
    np.testing.assert_array_equal(opened, load_image(str(path)))
    np.testing.assert_array_equal(rgb(opened, "again"), opened)
    assert opened.size == ((6, 4) if orientation < 5 else (4, 6))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_alpha_is_laid_on_white_as_transformers_processors_do(tmp_path, mode):
    noise = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    picture = Image.fromarray(noise, "RGBA")
    picture = Image.open(saved(tmp_path, picture.quantize(16))) if mode == "P" else picture.convert("LA").convert(mode)
    np.testing.assert_array_equal(rgb(picture, "it"), convert_to_rgb(picture, return_numpy=True))


def test_of_animations_the_first_frame_is_shown_and_said(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="has 2 frames: frame 0 is shown"):
        assert open_image(path).getpixel((0, 0)) == (255, 0, 0)
    assert open_image(path, frame=0).getpixel((0, 0)) == (255, 0, 0)
    assert open_image(path, frame=1).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(UserError, match="no frame 2"):
        open_image(path, frame=2)


def test_broken_files(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no image at"):
        open_image(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UserError, match="not an image"):
        open_image(tmp_path / "text.png")
    whole = saved(tmp_path, Image.effect_noise((64, 64), 90)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable image"):
        open_image(tmp_path / "cut.png")
    with pytest.raises(UserError, match="not a readable image"):
        open_image(tmp_path)


def test_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr("crosslens.data.images.MAX_PIXELS", 100)
    with pytest.raises(UserError, match="too large"):
        open_image(saved(tmp_path, Image.new("RGB", (20, 20))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="too large"):
        open_image(tmp_path / "picture.png")
