"""Decoding: equality with Pillow, modes, orientation, what is refused, and many images at once."""

import io
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from jaxfair.data import images
from jaxfair.data.images import Unreadable, decode, decode_all
from jaxfair.data.opening import open_files
from jaxfair.errors import JaxfairError
from tests.real_data import needs

SIDES = st.integers(1, 40)
SIZES = st.tuples(SIDES, SIDES)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng([height, width]).integers(0, 256, shape, np.uint8)


def jpeg(height: int = 30, width: int = 20) -> bytes:
    return encoded(Image.fromarray(noise(height, width)), "JPEG")


@given(
    source=SIZES,
    size=st.one_of(st.none(), SIZES),
    channels=st.sampled_from([1, 3]),
    kind=st.sampled_from(["JPEG", "PNG"]),
)
def test_the_pixels_are_those_of_pillow(
    source: tuple[int, int], size: tuple[int, int] | None, channels: int, kind: str
) -> None:
    data = encoded(Image.fromarray(noise(*source)), kind)
    expected = Image.open(io.BytesIO(data)).convert("RGB" if channels == 3 else "L")
    if size:
        expected = expected.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = decode(data, size, channels)
    assert pixels.shape == (*(size or source), channels)
    np.testing.assert_array_equal(pixels, np.asarray(expected).reshape(pixels.shape))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "F"])
@settings(max_examples=20)
@given(source=SIZES, size=SIZES, channels=st.sampled_from([1, 3]))
def test_every_mode_gives_the_shape_asked_for(
    mode: str, source: tuple[int, int], size: tuple[int, int], channels: int
) -> None:
    image = Image.new(mode, (source[1], source[0]))
    if mode not in ("F", "I", "I;16"):
        image.frombytes(np.random.default_rng(0).bytes(len(image.tobytes())))
    data = encoded(image, "TIFF")
    pixels = decode(data, size, channels)
    assert pixels.shape == (*size, channels)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_every_format_is_read(kind: str) -> None:
    image = Image.new("RGB", (9, 7), (255, 0, 0))
    assert np.abs(decode(encoded(image, kind)).astype(int) - [255, 0, 0]).max() < 3


def test_formats_that_run_programs_are_not() -> None:
    with pytest.raises(Unreadable, match="is no JPEG"):
        decode(encoded(Image.new("RGB", (9, 7)), "EPS"))


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_sixteen_bits_are_scaled(values: np.ndarray) -> None:
    height, width = values.shape
    image = Image.frombytes("I;16", (width, height), values.astype("<u2").tobytes())
    for kind in ("PNG", "TIFF", "PPM"):
        pixels = decode(encoded(image, kind), channels=1)[..., 0]
        np.testing.assert_array_equal(pixels, np.rint(values / 257))


@pytest.mark.parametrize("orientation", [1, 3])
def test_twelve_bits_are_scaled(orientation: int) -> None:
    """A TIFF of 4095 and 0, in three bytes."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 274: orientation, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<I", 12) + b"\xff\xf0\x00\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert decode(data, channels=1)[0, :, 0].tolist() == [255, 0][:: 1 if orientation == 1 else -1]


def test_alpha_that_is_multiplied_in_is_read() -> None:
    data = encoded(Image.new("LA", (2, 2), (100, 255)), "TIFF")
    known = struct.pack("<HHIH", 338, 3, 1, 2)
    assert data.count(known) == 1
    assert (decode(data.replace(known, struct.pack("<HHIH", 338, 3, 1, 1))) == 100).all()


def test_a_mode_without_a_way_to_rgb_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: Any, **__: Any) -> Image.Image:
        raise ValueError("conversion from La to RGBA not supported")

    monkeypatch.setattr(Image.Image, "convert", convert)
    reasons = decode_all(iter([(0, encoded(Image.new("CMYK", (2, 2)), "TIFF"))]), np.zeros((1, 4, 4, 3), np.uint8))
    assert reasons == {0: "has the mode CMYK, which cannot be made grey or RGB"}


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_floats_are_scaled_from_one(values: np.ndarray) -> None:
    pixels = decode(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_allclose(pixels[..., 0], values * 255, atol=0.501)


@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan])
def test_values_of_unknown_range_are_refused(value: float) -> None:
    pixels = np.full((2, 2), value, np.float32)
    with pytest.raises(Unreadable, match=r"^has values .* outside 0 to"):
        decode(encoded(Image.fromarray(pixels), "TIFF"))


@pytest.mark.parametrize("value", [-1, 0, 255, 65_535, 70_000])
def test_whole_numbers_of_32_bits_say_no_white(value: int) -> None:
    data = encoded(Image.fromarray(np.full((2, 2), value, np.int32)), "TIFF")
    with pytest.raises(Unreadable, match=r"^has whole numbers of 32 bits or with a sign, of unknown range"):
        decode(data)


@pytest.mark.parametrize("bits", [8, 16])
def test_whole_numbers_with_a_sign_say_no_white(bits: int) -> None:
    """A TIFF of one grey value."""
    tags = {256: 1, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: bits // 8, 339: 2}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<I", 12) + b"\xff\x7f\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    with pytest.raises(Unreadable, match=r"^has whole numbers of 32 bits or with a sign, of unknown range"):
        decode(data)


def test_a_tiff_that_pillow_does_not_read_is_one() -> None:
    """Three values with a point of one pixel."""
    tags = {256: 1, 257: 1, 258: 32, 259: 1, 262: 2, 273: 8, 277: 3, 278: 1, 279: 12, 339: 3}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<I", 20) + bytes(12) + struct.pack("<H", len(tags)) + entries + bytes(4)
    with pytest.raises(Unreadable, match=r"^is a TIFF that is damaged, or of values that Pillow does not read"):
        decode(data)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda shape: (*shape, 4))))
def test_white_shows_through(pixels: np.ndarray) -> None:
    """By the definition of alpha; where the image is opaque, nothing changes."""
    seen = decode(encoded(Image.fromarray(pixels)))
    alpha = pixels[..., 3:] / 255.0
    np.testing.assert_allclose(seen, alpha * pixels[..., :3] + (1 - alpha) * 255, atol=0.51)
    opaque = pixels[..., 3] == 255
    np.testing.assert_array_equal(seen[opaque], pixels[opaque, :3])
    np.testing.assert_array_equal(seen, decode(pixels))


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_transparent_pixels_are_white(mode: str) -> None:
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (7, 255))
    data = encoded(image) if mode == "LA" else encoded(image.getchannel(0).convert("P"), transparency=0)
    assert decode(data, channels=1)[..., 0].tolist() == [[255, 7]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # the upper left corner is white
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),  # the camera's first row is the right side
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(turned)), "JPEG", quality=100, exif=exif)
    np.testing.assert_allclose(decode(data).astype(int), upright, atol=4)


def test_a_broken_exif_block_does_not_matter() -> None:
    data = encoded(Image.fromarray(noise(8, 8)), exif=b"Exif\0\0MM\0*\0\0\0\xff junk")
    np.testing.assert_array_equal(decode(data), noise(8, 8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"<html>", "is no JPEG, PNG"),
        (b"version https://git-lfs.github.com/spec/v1", "is no JPEG, PNG"),
        (jpeg()[:10], "is cut short"),
        (jpeg()[:-200], "is cut short"),
        (encoded(Image.fromarray(noise(30, 20)))[:-500], "is cut short"),
        (np.zeros((2, 2)), "has values of type float64, not uint8"),
        (np.zeros((2, 2, 5), np.uint8), r"has the shape \(2, 2, 5\), not"),
        (np.zeros((0, 2), np.uint8), r"has the shape \(0, 2\), not"),
        (np.zeros(4, np.uint8), r"has the shape \(4,\), not"),
    ],
)
def test_what_cannot_be_read_is_half_a_sentence(data: Any, reason: str) -> None:
    with pytest.raises(Unreadable, match=f"^{reason}") as caught:
        decode(data, (8, 8))
    assert not isinstance(caught.value, JaxfairError)


@given(kind=st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]), data=st.data())
def test_damage_is_unreadable_or_has_the_shape(kind: str, data: st.DataObject) -> None:
    contents = bytearray(encoded(Image.fromarray(noise(12, 9)), kind))
    place = st.integers(0, len(contents) - 1)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        contents[at] = value
    try:
        pixels = decode(bytes(contents[: data.draw(place)]), (4, 4))
    except Unreadable:
        return
    assert pixels.shape == (4, 4, 3)


@pytest.mark.parametrize("limit", [599, 299])
def test_too_many_pixels_are_refused(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(Unreadable, match=f"has more than {limit} pixels"):
        decode(jpeg(30, 20))
    assert decode_all(iter([(0, jpeg(30, 20))]), np.zeros((1, 4, 4, 3), np.uint8)) == {
        0: f"has more than {limit} pixels"
    }


@pytest.mark.parametrize(("size", "channels"), [((0, 4), 3), ((4, 4), 2)])
def test_an_impossible_shape_is_refused(size: tuple[int, int], channels: int) -> None:
    with pytest.raises(JaxfairError, match="expected a height and width from 1, and 1 channel"):
        decode(jpeg(), size, channels)


@given(source=SIZES, size=SIZES, channels=st.sampled_from([1, 2, 3, 4]), wanted=st.sampled_from([1, 3]))
def test_arrays_are_treated_as_files_are(
    source: tuple[int, int], size: tuple[int, int], channels: int, wanted: int
) -> None:
    pixels = noise(*source, channels)
    np.testing.assert_array_equal(decode(pixels, size, wanted), decode(encoded(Image.fromarray(pixels)), size, wanted))
    if channels == 1:
        np.testing.assert_array_equal(decode(pixels[..., None], size, wanted), decode(pixels, size, wanted))


@pytest.mark.parametrize("channels", [1, 3])
def test_many_are_each_as_one(channels: int) -> None:
    datas = [jpeg(1 + i % 50, 1 + i % 7) for i in range(300)]
    datas[7], datas[250] = b"", b"<html>"
    out = np.zeros((300, 8, 9, channels), np.uint8)
    order = np.random.default_rng(0).permutation(300)
    reasons = decode_all(((int(row), datas[row]) for row in order), out)
    assert list(reasons) == [7, 250]
    assert reasons[7] == "is empty"
    for row, data in enumerate(datas):
        expected = 0 if row in reasons else decode(data, (8, 9), channels)
        np.testing.assert_array_equal(out[row], np.broadcast_to(expected, out[row].shape))


def test_few_images_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many nor large ones are read far ahead of the decoding."""
    monkeypatch.setattr(images.os, "cpu_count", lambda: 2)
    decoded, ahead = [0], [0]
    lock = threading.Lock()
    inner = images._decode

    def counted(*args: Any) -> np.ndarray:
        pixels = inner(*args)
        with lock:
            decoded[0] += 1
        return pixels

    monkeypatch.setattr(images, "_decode", counted)

    def stream(array: np.ndarray, count: int) -> Iterator[tuple[int, np.ndarray]]:
        decoded[0] = ahead[0] = 0
        for row in range(count):
            ahead[0] = max(ahead[0], row - decoded[0])
            yield row, array

    decode_all(stream(noise(8, 8), 3000), np.zeros((3000, 8, 8, 3), np.uint8))
    assert 0 < ahead[0] <= 6 * 64
    decode_all(stream(np.zeros((1500, 1500, 3), np.uint8), 60), np.zeros((60, 2, 2, 3), np.uint8))
    assert ahead[0] <= 6


def test_an_exception_of_the_stream_or_of_a_thread_ends_the_work() -> None:
    def stream() -> Iterator[tuple[int, bytes]]:
        for row in range(1000):
            yield row, jpeg()
        raise KeyboardInterrupt

    out = np.zeros((1000, 8, 8, 3), np.uint8)
    with pytest.raises(KeyboardInterrupt):
        decode_all(stream(), out)
    with pytest.raises(IndexError):
        decode_all(((row, jpeg()) for row in range(2000)), out)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_progress_is_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(0, 1000, 0.05))  # every look at the clock is 50 ms later
    monkeypatch.setattr(images.time, "monotonic", lambda: next(clock))
    told: list[tuple[int, int, int]] = []
    out = np.zeros((64 * 40 + 1, 8, 8, 3), np.uint8)
    decode_all(
        ((row, noise(8, 8)) for row in range(len(out))),
        out,
        on_progress=lambda done, total: told.append((done, total, threading.get_ident())),
    )
    counts = [done for done, _, _ in told]
    assert counts == sorted(counts)
    assert 10 <= len(counts) <= 25
    assert told[-1] == (len(out), len(out), threading.main_thread().ident)


def test_real_faces_are_those_of_pillow() -> None:
    with open_files(needs("utkface_64.zip")) as view:
        names = view.names[::1000]
        out = np.zeros((len(names), 32, 32, 3), np.uint8)
        assert decode_all(((names.index(name), data) for name, data in view.stream(names)), out) == {}
        for row, name in enumerate(names):
            image = Image.open(io.BytesIO(view.read(name))).convert("RGB")
            np.testing.assert_array_equal(out[row], np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))
