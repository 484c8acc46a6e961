"""One picture file as bytes of one size: the only decoder of the project, for prepared sets and for folders of yours.

Turned as its EXIF says; palettes, CMYK and grey become RGB (or L); what is transparent lies on black; whole numbers
of more than 8 bits, and floats, are scaled to 8 by a range that is stated. Sizes are reached by Pillow's bilinear
filter, which averages when it shrinks.
"""

import io
import os
import warnings
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = ["DEEP", "FILTER", "FITS", "LEAST", "picture", "top_of", "top_of_files"]

FILTER = "bilinear"  # the paper names none
LEAST = 8  # a picture with a shorter side is no picture of a set
FITS = {
    "crop": "scaled until the shorter side fits and cropped in the middle",
    "stretch": "stretched",
    "pad": "scaled until the longer side fits and padded with black",
}
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
TOPS = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)  # floats up to 1; 8, 10, 12, 14 and 16 bits

Source = str | os.PathLike | bytes | bytearray | memoryview


def picture(
    source: Source,
    size: tuple[int, int],
    *,
    mode: str = "RGB",
    fit: str = "stretch",
    top: float | None = None,
    least: int = LEAST,
    notes: set[str] | None = None,
) -> np.ndarray:
    """One picture as uint8 (h, w, 3), or (h, w) for mode "L".

    Args:
        source: path or content of a file.
        size: (height, width); a picture of that size keeps its bytes.
        mode: "RGB" or "L".
        fit: one of `FITS`.
        top: value of a deep picture that becomes 255; None: the smallest of `TOPS` that holds the picture.
        least: shortest side taken.
        notes: gets what was done that one would not expect, in words.
    Raises:
        ValueError: no picture, cut short, too small or too large, or negative values; says which.
    """
    notes = set() if notes is None else notes
    image = _opened(source, notes)
    if min(image.size) < least:
        raise ValueError(f"only {image.size[0]} x {image.size[1]} pixels")
    if image.mode in DEEP:
        image = _in_eight_bits(np.asarray(image, np.float64), top, notes)
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.add("transparency laid on black")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(
        _resized(image.convert(mode), size, fit)
    )  # a copy: Pillow's own memory cannot be written to


def top_of(largest: float, is_float: bool) -> float:
    """The range of deep pictures by their largest value: 1 for floats up to 1, else what 8, 10, 12, 14 or 16 bits hold.

    >>> top_of(0.7, True), top_of(1, False), top_of(199, False), top_of(3000, False)
    (1.0, 255.0, 255.0, 4095.0)
    """
    found = next((top for top in (TOPS if is_float else TOPS[1:]) if largest <= top), None)
    if found is None:
        raise ValueError(f"values up to {largest:g}, above 65535; bring them to 0..255 or 0..65535 first")
    return found


def top_of_files(sources: Iterable[Source]) -> float | None:
    """One range for all the deep pictures among files, so that they stay comparable; None where there is none.

    Only headers are read of the others.
    """
    largest, is_float = None, False
    for source in sources:
        try:
            with Image.open(_file(source)) as image:
                if image.mode in DEEP:
                    largest = max(largest or 0.0, float(np.asarray(image).max()))
                    is_float = is_float or image.mode == "F"
        except Exception:  # what cannot be read is named when it is read
            continue
    try:
        return None if largest is None or not np.isfinite(largest) else top_of(largest, is_float)
    except ValueError:
        return None


def _file(source: Source) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source


def _opened(source: Source, notes: set[str]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(_file(source)) as file:
                if getattr(file, "n_frames", 1) > 1:
                    notes.add("the first of several frames or pages taken")
                image = ImageOps.exif_transpose(file)
                image.load()
                return image
    except (OSError, ValueError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    except Image.DecompressionBombWarning as error:
        raise ValueError(f"too large: {error}") from error


def _in_eight_bits(values: np.ndarray, top: float | None, notes: set[str]) -> Image.Image:
    if not np.isfinite(values).all():
        raise ValueError("nan or infinite values")
    if values.min() < 0:
        raise ValueError(f"negative values, down to {values.min():g}; bring them to 0..255 first")
    top = top_of(float(values.max()), not (values == np.round(values)).all()) if top is None else top
    if top != 255:
        notes.add(f"values of the range 0..{top:g} scaled to 0..255")
    if values.max() > top:
        notes.add(f"values above {top:g}, the end of the range, cut to it")
    return Image.fromarray(np.round(values.clip(0, top) * (255 / top)).astype(np.uint8))


def _resized(image: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    height, width = size
    resample = Image.Resampling[FILTER.upper()]
    if image.size == (width, height):
        return image
    if fit == "stretch":
        return image.resize((width, height), resample)
    return (ImageOps.fit if fit == "crop" else ImageOps.pad)(image, (width, height), resample)
