"""Opening pictures: RGB, or one clear line."""

from __future__ import annotations

import pytest
from crosslens.data.example import UserError
from crosslens.data.images import open_image
from PIL import Image


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


def test_animations_need_a_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"animated \(2 frames\)"):
        open_image(path)
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
