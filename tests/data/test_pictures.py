"""Pictures of every kind become upright RGB of the wanted size, or an error that names the file and the reason."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import homespun as hs
from homespun.data.pictures import LARGEST_PIXELS, check_header, read_pixels, whole_picture

GREY, DARK = 128, 40


def two_halves(width: int = 40, height: int = 40) -> Image.Image:
    """Left dark red, right light blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (200, 40, 40)
    pixels[:, width // 2 :] = (120, 180, 250)
    return Image.fromarray(pixels)


def modes() -> dict[str, tuple[Image.Image, str, Callable[[], Image.Image]]]:
    """Pictures in many modes, the suffix to save them with, and the RGB picture that each should be."""
    rgb = two_halves()
    grey = rgb.convert("L")
    alpha = rgb.convert("RGBA")
    mask = Image.new("L", rgb.size, 255)
    mask.paste(0, (20, 0, 40, 40))
    alpha.putalpha(mask)
    over_white = rgb.copy()
    over_white.paste((255, 255, 255), (20, 0, 40, 40))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    twelve = Image.fromarray(np.array([[0, 4095]], np.uint16).repeat(20, 1).repeat(40, 0))
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    black_white = Image.fromarray(np.array([[0, 255]], np.uint8).repeat(20, 1).repeat(40, 0))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    see_through = palette.copy()
    index = palette.getpixel((30, 20))
    return {
        "grey": (grey, ".png", lambda: grey.convert("RGB")),
        "grey and alpha": (Image.merge("LA", (grey, mask)), ".png", lambda: _white(grey)),
        "alpha": (alpha, ".png", lambda: over_white),
        "alpha in webp": (alpha, ".webp", lambda: over_white),
        "palette": (palette, ".gif", lambda: rgb),
        "palette with a transparent colour": (see_through, f".png:{index}", lambda: over_white),
        "one bit": (black_white.convert("1"), ".png", lambda: black_white.convert("RGB")),
        "16 bit": (deep, ".png", lambda: grey.convert("RGB")),
        "12 bit in 16": (twelve, ".png", lambda: black_white.convert("RGB")),
        "floats": (floats, ".tif", lambda: grey.convert("RGB")),
        "CMYK": (rgb.convert("CMYK"), ".jpg", lambda: rgb),
        "Lab": (Image.merge("LAB", [Image.new("L", (40, 40), v) for v in (136, 128, 128)]), ".tif", lambda: None),
    }


def _white(grey: Image.Image) -> Image.Image:
    result = grey.convert("RGB")
    result.paste((255, 255, 255), (20, 0, 40, 40))
    return result


@pytest.mark.parametrize("name", modes())
def test_every_mode_is_read_as_it_looks(name: str, tmp_path: Path) -> None:
    image, suffix, expected = modes()[name]
    suffix, _, transparent = suffix.partition(":")
    path = tmp_path / f"picture{suffix}"
    image.save(path, **({"transparency": int(transparent)} if transparent else {"quality": 95}))
    found = read_pixels(path, 40, 40).astype(int)
    assert found.shape == (40, 40, 3)
    look = expected()
    if look is None:  # a middle grey
        assert abs(found - found[..., :1]).max() <= 12
        assert 90 < found.mean() < 160
        return
    inner = [slice(4, 36), [6, 10, 14, 26, 30, 34]]  # away from the edge, where scaling and JPEG blur
    np.testing.assert_allclose(found[inner[0]][:, inner[1]], np.asarray(look)[inner[0]][:, inner[1]], atol=8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_orientation_is_followed(orientation: int, suffix: str, tmp_path: Path) -> None:
    """A picture stored turned, with the note how, reads as the upright one; cuts are of the upright one too."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 255, (6, 9, 3), np.uint8))
    upright = small.resize((180, 120), Image.Resampling.BICUBIC)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"turned{suffix}", exif=exif, quality=97)
    upright.save(tmp_path / f"upright{suffix}", quality=97)
    for framing in (whole_picture, lambda w, h: (0.1 * w, 0.2 * h, 0.7 * w, 0.9 * h)):
        found = read_pixels(tmp_path / f"turned{suffix}", 30, 40, framing=framing).astype(int)
        expected = read_pixels(tmp_path / f"upright{suffix}", 30, 40, framing=framing).astype(int)
        assert np.abs(found - expected).mean() < 3


def test_a_cut_is_what_the_box_holds(tmp_path: Path) -> None:
    two_halves(80, 40).save(tmp_path / "a.png")
    right = read_pixels(tmp_path / "a.png", 16, 16, framing=lambda w, h: (w / 2, 0, w, h))
    np.testing.assert_array_equal(right[:, 3:], np.broadcast_to((120, 180, 250), (16, 13, 3)))  # scaling blurs edges


def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 255, (5, 7, 3), np.uint8)).resize((2800, 2000)).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as whole:
        whole.load()
        expected = np.asarray(whole.resize((64, 64), box=whole_picture(2800, 2000))).astype(int)
    assert np.abs(read_pixels(tmp_path / "a.jpg", 64, 64).astype(int) - expected).mean() < 2


def test_one_channel(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "a.png")
    assert read_pixels(tmp_path / "a.png", 20, 20, channels=1).shape == (20, 20, 1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jpg", lambda whole: b"", "empty"),
        ("text.png", lambda whole: b"no picture at all", "not a picture"),
        ("short.jpg", lambda whole: whole[: len(whole) // 2], "cut short"),
        ("noise.jpg", lambda whole: whole[:2] + bytes(range(256)) * 8, "noise.jpg"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, content: Callable[[bytes], bytes], words: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    two_halves(300, 200).save(stream, "JPEG")
    (tmp_path / name).write_bytes(content(stream.getvalue()))
    with pytest.raises(hs.FormatError, match=words) as raised:
        read_pixels(tmp_path / name, 32, 32)
    assert name in str(raised.value)


def test_a_missing_file_and_the_check_of_a_header(tmp_path: Path) -> None:
    with pytest.raises(hs.FormatError, match="no such file"):
        check_header(tmp_path / "gone.jpg")
    two_halves().save(tmp_path / "a.png")
    check_header(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_pictures_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    side = int(LARGEST_PIXELS**0.5) + 100
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with pytest.raises(hs.FormatError, match=r"huge\.png.*more than can be decoded"):
        read_pixels(tmp_path / "huge.png", 32, 32)
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(hs.FormatError, match=r"bomb\.png: (too large|.* more than can be decoded)"):
        read_pixels(tmp_path / "bomb.png", 32, 32)


def test_long_and_tiny_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 2), (10, 200, 30)).save(tmp_path / "long.png")
    Image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / "dot.png")
    for name in ("long.png", "dot.png"):
        np.testing.assert_array_equal(read_pixels(tmp_path / name, 32, 32), np.broadcast_to((10, 200, 30), (32, 32, 3)))
