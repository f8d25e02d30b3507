"""Encoded files and arrays to uint8 pixels of one size, by Pillow, in parallel."""

import io
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from jaxfair.errors import JaxfairError

if TYPE_CHECKING:
    from PIL import Image as PillowImage

# Only these: Pillow's other readers include one that starts Ghostscript, and some that take nearly any bytes.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_NAMED = "JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")
_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # EXIF
_BITS, _KIND = 258, 339  # TIFF's tags of how many a value has, and of its sign or point
_WITH_SIGN = 2
_TIFF = (b"II*\0", b"MM\0*")
_CHUNK_IMAGES, _CHUNK_BYTES = 64, 1 << 22
_SECONDS_BETWEEN_REPORTS = 0.1


class Unreadable(ValueError):
    """An image that cannot be used; the message is the reason, half a sentence: ``is empty``."""


def decode(
    data: bytes | np.ndarray, size: tuple[int, int] | None = None, channels: int = 3
) -> UInt8[np.ndarray, "h w c"]:
    """Return the pixels of one image.

    It is turned upright by its EXIF tag; of several frames, the first is taken. Transparent parts show white behind
    them, as viewers show them. 16 bits are scaled to 8, numbers with a point from 0..1 to 0..255; whole numbers of 32
    bits, or with a sign, are refused, since nothing says which of them is white. For an opaque 8-bit
    image the result is that of Pillow's ``convert('RGB').resize((width, height), BILINEAR)``, bit for bit;
    torchvision's ``Resize`` of a Pillow image does the same.

    Args:
        data: An encoded file (JPEG, PNG, WebP, BMP, GIF, TIFF or PPM), or uint8 of shape (h, w) or (h, w, c) with c of
            1 to 4: grey, grey and alpha, RGB, RGB and alpha.
        size: Height and width to resize to, without regard to the aspect ratio, by a bilinear filter that averages
            where it shrinks; None keeps the size.
        channels: 3 for RGB, where grey is repeated; 1 for grey, by Pillow's weights.

    Raises:
        Unreadable: The data are empty, no image, cut short, of too many pixels, or of values of unknown range.
    """
    with _pillow_warnings():
        return _decode(data, size, channels)


def decode_all(
    stream: Iterator[tuple[int, Any]],
    out: UInt8[np.ndarray, "n h w c"],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[int, str]:
    """Decode images into the rows of an array, as ``decode`` does one, on every core.

    A few chunks of images are held at a time, whatever the length of the stream. An exception of the stream ends it.

    Args:
        stream: Yields row and ``decode``'s data, each row at most once; it is read in the caller's thread.
        out: The array to fill, with 1 or 3 channels, and the size that all images get.
        on_progress: A function that is called in the caller's thread with the number of images done and that of all
            rows, ten times a second at most, and at the end.

    Returns:
        The reason for every row that cannot be read, in order of rows; these rows are left as they are.
    """
    threads = os.cpu_count() or 1
    target = np.asarray(out)  # a memory map's rows are slow to take
    failures: dict[int, str] = {}
    pending: deque[Future[tuple[int, dict[int, str]]]] = deque()
    done, reported = 0, time.monotonic()

    def collect(most: int) -> None:
        nonlocal done, reported
        while len(pending) > most:
            count, reasons = pending.popleft().result()
            failures.update(reasons)
            done += count
            if on_progress and time.monotonic() - reported >= _SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                on_progress(done, len(out))

    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        with _pillow_warnings():  # here, since the filters belong to the process
            for chunk in _chunks(stream):
                pending.append(pool.submit(_decode_chunk, chunk, target))
                collect(2 * threads)
            collect(0)
    finally:
        pool.shutdown(cancel_futures=True)
    if on_progress:
        on_progress(done, len(out))
    return dict(sorted(failures.items()))


def _chunks(stream: Iterator[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    """Yield images by the dozens, since handing over one takes longer than decoding a small one."""
    chunk, size = [], 0
    for row, data in stream:
        chunk.append((row, data))
        size += memoryview(data).nbytes
        if len(chunk) == _CHUNK_IMAGES or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode_chunk(chunk: list[tuple[int, Any]], out: np.ndarray) -> tuple[int, dict[int, str]]:
    height, width, channels = out.shape[1:]
    reasons = {}
    for row, data in chunk:
        try:
            out[row] = _decode(data, (height, width), channels)
        except Unreadable as error:
            reasons[row] = str(error)
    return len(chunk), reasons


def _decode(data: bytes | np.ndarray, size: tuple[int, int] | None, channels: int) -> np.ndarray:
    from PIL import Image

    if channels not in _MODES or (size is not None and min(size) < 1):
        raise JaxfairError(
            f"Images of size {size} with {channels} channels were asked for; "
            "expected a height and width from 1, and 1 channel (grey) or 3 (RGB)."
        )
    if isinstance(data, np.ndarray):
        if data.dtype == np.uint8 and data.shape == (*(size or data.shape[:2]), channels):
            return data  # as it comes: 10,000 arrays a batch file are not worth a detour
        image = _from_array(data)
    else:
        image = _open(data)
    try:
        image = _plain(image, _MODES[channels])
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # Pillow has no way from some modes to others
        raise Unreadable(f"has the mode {image.mode}, which cannot be made grey or RGB") from error
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(image).reshape(image.height, image.width, channels)


def _open(data: bytes) -> "PillowImage.Image":
    """Return the image, decoded and upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise Unreadable("is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
        tags = getattr(image, "tag_v2", {})
        image.info["bits"] = tags.get(_BITS, (16,))[0]
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise Unreadable(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything for bytes that are not as they should be
        if isinstance(error, UnidentifiedImageError) and not data.startswith(_STARTS):
            known = data.startswith(_TIFF)  # such as colours with a point
            kind = "a TIFF that is damaged, or of values that Pillow does not read" if known else f"no {_NAMED} image"
            raise Unreadable(f"is {kind}") from error
        raise Unreadable("is cut short or damaged") from error
    if tags.get(_KIND, (1,))[0] == _WITH_SIGN or (image.mode == "I" and tags):  # 255, 65535 or any number is white
        raise Unreadable("has whole numbers of 32 bits or with a sign, of unknown range; save it in 8 or 16 without")
    try:
        return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    except Exception:  # a broken EXIF block says nothing about the pixels
        return image


def _from_array(pixels: np.ndarray) -> "PillowImage.Image":
    from PIL import Image

    if pixels.dtype != np.uint8:
        raise Unreadable(f"has values of type {pixels.dtype}, not uint8")
    if pixels.size == 0 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
        raise Unreadable(f"has the shape {pixels.shape}, not (height, width) or (height, width, 1 to 4)")
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _plain(image: "PillowImage.Image", mode: str) -> "PillowImage.Image":
    """Return the image in 8 bits, opaque, grey or RGB."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        # Scaled by the range that the type stands for, never by the values: a dark image stays dark.
        values = np.asarray(image)
        top, kind = (1.0, "with a point") if image.mode == "F" else (65535, "of more than 16 bits")
        if image.mode.startswith("I;16"):  # which TIFF's 12 bits are opened as, and not scaled
            top = 2 ** image.info.get("bits", 16) - 1
        if not (values.min() >= 0 and values.max() <= top):  # so that NaN is refused
            raise Unreadable(f"has values {kind} outside 0 to {top:g}")
        image = Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
    if image.mode == "La":  # which Pillow converts to this only
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "LAB":  # which Pillow converts to RGB only
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


@contextmanager
def _pillow_warnings() -> Iterator[None]:
    """Make an image of too many pixels an error, and keep Pillow's warnings of harmless faults to itself."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
