"""Opening pictures, in one place: whatever cannot be shown to a model as it is gets one clear line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import UserError

# Pillow's own limit against files that unpack to gigabytes.
MAX_PIXELS = 89_478_485
# Resizing the short edge to a few hundred pixels makes anything longer gigantic; Qwen's processors refuse it too.
MAX_ASPECT = 200
BROKEN = (OSError, SyntaxError, ValueError, EOFError)


def open_image(path: str | Path, *, frame: int | None = None) -> Image.Image:
    """A picture file as RGB, turned as its EXIF says (as transformers' `load_image` does).

    frame: which picture of an animation; without it the first one, with a warning. Transparency is laid on white, as
    transformers' processors do; CMYK and palettes are converted. Of 16 bits the high byte is taken, for grey as Pillow
    does for colours.
    UserError: no such file, not a picture, cut off, 32-bit pixels, too large (89 megapixels, or 200 times as long as
    wide).
    """
    path = Path(path)
    try:
        return open_picture(path, str(path), frame=frame)
    except FileNotFoundError:
        raise UserError(f"no image at {path}") from None


def open_picture(file: Path | BinaryIO, where: str, *, frame: int | None = None) -> Image.Image:
    """`open_image` of a path or of an open file. FileNotFoundError: no such path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{where} is not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{where} is too large: more than {MAX_PIXELS:,} pixels") from error
    except BROKEN as error:
        raise UserError(f"{where} is not a readable image: {_first_line(error)}") from error
    with image:
        return rgb(image, where, frame=frame)


def rgb(image: Image.Image, where: str, *, frame: int | None = None) -> Image.Image:
    """An open picture as RGB pixels in memory, as `open_image` makes it; of such a picture, an equal one.

    where: named in the error. frame: None takes the frame at which an animation stands.
    """
    _refuse_size(image, where)
    _choose_frame(image, where, frame)
    try:
        image.load()
        return _on_white(_eight_bits(ImageOps.exif_transpose(image), image.format, where))
    except BROKEN as error:
        raise UserError(f"{where} is not a readable image: {_first_line(error)}") from error


def _choose_frame(image: Image.Image, where: str, frame: int | None) -> None:
    frames = getattr(image, "n_frames", 1)
    if frame is not None and not 0 <= frame < frames:
        raise UserError(f"{where} has no frame {frame}: it has {frames}, counted from 0")
    if frame is None and frames > 1:
        told = f"{where} has {frames} frames: frame {image.tell()} is shown; choose another, open_image(path, frame=1)"
        warnings.warn(told, stacklevel=3)
    if frame is not None:
        try:
            image.seek(frame)
        except BROKEN as error:
            raise UserError(f"{where}, frame {frame}, is not readable: {_first_line(error)}") from error


def _eight_bits(image: Image.Image, file_format: str | None, where: str) -> Image.Image:
    """Grey pixels of more than 8 bits as 8; Pillow's own conversion would clip them to white."""
    # 16-bit grey files of these formats may be opened as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.int32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(
            f"{where} has 32-bit pixels (mode {image.mode}), of which no value is white: save it with 8 bits"
        )
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _refuse_size(image: Image.Image, where: str) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise UserError(f"{where} is empty: {width} × {height} pixels")
    if width * height > MAX_PIXELS:
        raise UserError(f"{where} is too large: {width} × {height} pixels, at most {MAX_PIXELS:,} in all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{where} is {width} × {height} pixels, more than {MAX_ASPECT} times as long as wide: crop it")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
