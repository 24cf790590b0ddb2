"""Opening pictures: whatever cannot be shown to a model as it is gets one clear line."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .example import UserError

# Pillow's own limit against files that unpack to gigabytes.
MAX_PIXELS = 89_478_485
# Resizing the short edge to a few hundred pixels makes anything longer gigantic; Qwen's processors refuse it too.
MAX_ASPECT = 200


def open_image(path: str | Path, *, frame: int | None = None) -> Image.Image:
    """A picture file as RGB.

    frame: which picture of an animation; without it an animation is refused, since nobody said what to look at.
    Transparency is laid on white, CMYK and palettes are converted. The rotation that a camera notes is not applied.
    UserError: no such file, not a picture, cut off, animated, too large (89 megapixels, or 200 times as long as wide).
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
            return rgb(image, str(path), frame=frame)
    except FileNotFoundError:
        raise UserError(f"no image at {path}") from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not an image that Pillow can read") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large: more than {MAX_PIXELS:,} pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a readable image: {str(error).splitlines()[0]}") from error


def rgb(image: Image.Image, where: str, *, frame: int | None = None) -> Image.Image:
    """An open picture as RGB pixels in memory; refused as in `open_image`. where: named in the error."""
    _refuse_size(image, where)
    frames = getattr(image, "n_frames", 1)
    if frame is None and frames > 1:
        raise UserError(f"{where} is animated ({frames} frames): choose one, open_image(path, frame=0)")
    if frame is not None and not 0 <= frame < frames:
        raise UserError(f"{where} has no frame {frame}: it has {frames}, counted from 0")
    try:
        if frame is not None:
            image.seek(frame)
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"{where} is not a readable image: {str(error).splitlines()[0]}") from error
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _refuse_size(image: Image.Image, where: str) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise UserError(f"{where} is empty: {width} × {height} pixels")
    if width * height > MAX_PIXELS:
        raise UserError(f"{where} is too large: {width} × {height} pixels, at most {MAX_PIXELS:,} in all")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{where} is {width} × {height} pixels, more than {MAX_ASPECT} times as long as wide: crop it")
