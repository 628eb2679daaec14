"""Images as videos of one frame: told by their first bytes, opened by Pillow."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from jepa.data.errors import DataError
from jepa.data.packets import check_size

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
ORIENTATION, TURNS = 0x0112, {0: 0, 1: 0, 3: 180, 6: 90, 8: 270}  # EXIF; the other values mirror
DEEP = ("I", "F")  # Pillow's modes of more than 8 bits begin so; converting them would clip


def is_image(data: bytes) -> bool:
    """Whether the bytes begin like a JPEG, PNG, WebP or BMP file."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM")) or (data[:4], data[8:12]) == (
        b"RIFF",
        b"WEBP",
    )


def open_image(data: bytes) -> "Image":
    """The image, its pixels not decoded yet.

    Raises:
        DataError: it is not readable, too large, animated, or has more than 8 bits.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `check_size` has a limit of its own
            image = Image.open(io.BytesIO(data), formats=list(SUFFIXES))
    except Image.DecompressionBombError as error:
        raise DataError("an image of too many pixels (at most 2^27)") from error
    except UnidentifiedImageError as error:  # its text is about Python objects
        raise DataError("not a readable image") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"not a readable image: {error}") from error
    check_size(*image.size)
    if getattr(image, "n_frames", 1) > 1:
        raise DataError("an animated image; convert it to a video")
    if image.mode.startswith(DEEP):
        raise DataError(f"an image of more than 8 bits (Pillow's mode {image.mode}); convert it to 8 bits")
    return image


def image_rotation(image: "Image") -> int:
    """How many degrees clockwise the image must be turned to be upright, by EXIF: 0, 90, 180 or 270.

    Raises:
        DataError: EXIF says that it is mirrored.
    """
    orientation = image.getexif().get(ORIENTATION, 0)
    if orientation not in TURNS:
        raise DataError(f"EXIF orientation {orientation} is mirrored or unknown; save the image upright")
    return TURNS[orientation]


def image_pixels(image: "Image") -> np.ndarray:
    """(h, w, 3) uint8 RGB as stored; raises DataError where the image is cut off or broken."""
    try:
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"an image that cannot be decoded: {error}") from error
