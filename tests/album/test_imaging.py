"""Reading one file: every orientation, date, place, colour and format right; everything else refused with a reason."""

from __future__ import annotations

import io
import os
import re
import resource
import subprocess
import sys
import threading
import time
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from homespun.album.imaging import (
    Limits,
    PhotoData,
    SeenBefore,
    Unreadable,
    model_input,
    read_photo,
    render,
)
from homespun.album.imaging.metadata import date_in_name, parse_date
from homespun.album.imaging.read import read_unless_seen
from homespun.album.imaging.reasons import REASONS, explain
from homespun.errors import OptionError
from tests.album.made_photos import corners, encoded, exif, noise, png, png_chunk, write_photo

MIB = 1 << 20
ORIGINAL, DIGITIZED, DATE, ORIENTATION = 0x9003, 0x9004, 0x0132, 0x0112


def read_bytes(tmp_path: Path, data: bytes, name: str = "photo.jpg", **limits: float) -> PhotoData:
    path = tmp_path / name
    path.write_bytes(data)
    return read_photo(path, Limits(**limits))


def refusal(tmp_path: Path, data: bytes, name: str = "photo.jpg", **limits: float) -> str:
    with pytest.raises(Unreadable) as caught:
        read_bytes(tmp_path, data, name, **limits)
    return caught.value.reason


def shown(photo: PhotoData) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photo.thumbnail))).astype(int)


def as_rendered(tmp_path: Path, data: bytes, name: str = "photo") -> np.ndarray:
    path = tmp_path / name
    path.write_bytes(data)
    return np.asarray(Image.open(io.BytesIO(render(path, 1920)))).astype(int)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# Orientation

# What a camera stores for each orientation, from what is to be seen.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF", "HEIF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path: Path, turn: int, kind: str) -> None:
    upright = np.asarray(corners())
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}, "TIFF": {}, "PNG": {}}
    stored = Image.fromarray(np.ascontiguousarray(STORED[turn](upright)))
    data = encoded(stored, kind, exif=exif({ORIENTATION: turn}).tobytes(), **options.get(kind, {"quality": 95}))
    photo = read_bytes(tmp_path, data, f"photo.{kind.lower()}")
    assert (photo.width, photo.height) == (96, 64)
    assert difference(shown(photo), upright) < 6
    # The same pixels as the upright picture gives, up to what a lossy codec does to them.
    plain = read_bytes(tmp_path, encoded(corners(), "PNG"), "plain.png")
    loss = difference(photo.pixels, plain.pixels)
    assert loss < (5 if kind in ("JPEG", "AVIF", "HEIF") else 1e-9)


def test_a_large_jpeg_is_turned_after_it_was_reduced(tmp_path: Path) -> None:
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(corners(2000, 1500)), 1)))
    photo = read_bytes(tmp_path, encoded(stored, exif=exif({ORIENTATION: 6})))
    assert (photo.width, photo.height) == (2000, 1500)
    assert shown(photo).shape == (360, 480, 3)
    assert difference(shown(photo), np.asarray(corners(2000, 1500).resize((480, 360)))) < 3


@pytest.mark.parametrize("turn", [0, 9, 65535])
def test_a_senseless_orientation_is_none(tmp_path: Path, turn: object) -> None:
    data = encoded(corners(), exif=exif({ORIENTATION: turn}))
    assert (read_bytes(tmp_path, data).width, read_bytes(tmp_path, data).height) == (96, 64)


# Dates and places

NOW = datetime(2024, 6, 1)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2019:05:21 14:03:59", "2019-05-21T14:03:59"),
        ("2019-05-21T14:03:59.123+08:00", "2019-05-21T14:03:59"),
        ("2019/05/21 14:03", "2019-05-21T14:03:00"),
        ("2019:05:21", "2019-05-21T00:00:00"),
        ("2016:12:31 23:59:60", "2016-12-31T23:59:59"),
        ("1956:08:01 00:00:00", "1956-08-01T00:00:00"),
        (b"2019:05:21 14:03:59\0", "2019-05-21T14:03:59"),
        ("0000:00:00 00:00:00", None),
        ("2019:13:01 00:00:00", None),
        ("2019:02:30 00:00:00", None),
        ("2999:01:01 00:00:00", None),
        ("1700:01:01 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("yesterday", None),
        (20190521, None),
        (None, None),
    ],
)
def test_dates_as_cameras_write_them(written: object, meant: str | None) -> None:
    assert parse_date(written, NOW) == meant


@given(st.one_of(st.text(), st.binary(), st.from_regex(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d")))
def test_no_date_makes_the_parser_fail(written: object) -> None:
    parsed = parse_date(written, NOW)
    assert parsed is None or datetime.fromisoformat(parsed) <= datetime(2024, 6, 2)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("IMG_20190521_140359.jpg", "2019-05-21T14:03:59"),
        ("PXL_20210102_030405678.jpg", "2021-01-02T03:04:05"),
        ("Screenshot_2019-05-21-14-03-59.png", "2019-05-21T14:03:59"),
        ("2019-05-21 14.03.59.jpg", "2019-05-21T14:03:59"),
        ("IMG-20190521-WA0001.jpg", "2019-05-21T00:00:00"),
        ("mmexport1558418639000.jpg", datetime.fromtimestamp(1558418639).isoformat()),
        ("DSC_2019.jpg", None),
        ("IMG_1234.JPG", None),
        ("19991399.jpg", None),
        ("20190230.jpg", None),
        ("123456789012345678.jpg", None),
        ("20991231_000000.jpg", None),
    ],
)
def test_dates_in_names(name: str, meant: str | None) -> None:
    assert date_in_name(name, NOW) == meant


def test_the_time_of_the_shot_comes_before_other_dates(tmp_path: Path) -> None:
    name = "IMG_20180101_000000.jpg"
    every = {ORIGINAL: "2010:01:02 03:04:05", DIGITIZED: "2011:01:02 03:04:05"}
    root = {DATE: "2012:01:02 03:04:05"}
    broken = {ORIGINAL: "0000:00:00 00:00:00", DIGITIZED: "2999:01:02 03:04:05"}

    def taken(**parts: dict[int, str]) -> str | None:
        return read_bytes(tmp_path, encoded(corners(), exif=exif(**parts)), name).taken

    assert taken(root=root, details=every) == "2010-01-02T03:04:05"
    assert taken(root=root, details={DIGITIZED: every[DIGITIZED]}) == "2011-01-02T03:04:05"
    assert taken(root=root, details=broken) == "2012-01-02T03:04:05"
    assert taken() == "2018-01-01T00:00:00"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_every_format_that_carries_exif_gives_date_place_and_camera(tmp_path: Path, kind: str) -> None:
    block = exif(
        {0x010F: "Canon", 0x0110: "Canon EOS 70D"},
        {ORIGINAL: "2019:05:21 14:03:59"},
        {1: "S", 2: (33.0, 51.0, 24.48), 3: "E", 4: (151.0, 12.0, 55.8)},
    )
    photo = read_bytes(tmp_path, encoded(corners(), kind, exif=block.tobytes()), f"a.{kind.lower()}")
    assert photo.taken == "2019-05-21T14:03:59"
    assert (photo.latitude, photo.longitude) == pytest.approx((-33.8568, 151.2155))
    assert photo.camera == "Canon EOS 70D"
    assert photo.format == kind


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (10.0, 0.0, 0.0)},
        {1: "N", 2: (48.0, 0.0, 0.0), 3: "E", 4: (181.0, 0.0, 0.0)},
        {1: "N", 2: (48.0, 0.0, 0.0)},
        {1: "N", 3: "E"},
    ],
)
def test_a_place_that_is_none_is_left_out(tmp_path: Path, gps: dict[int, object]) -> None:
    photo = read_bytes(tmp_path, encoded(corners(), exif=exif(gps=gps)))
    assert (photo.latitude, photo.longitude) == (None, None)


@pytest.mark.parametrize(
    ("maker", "model", "camera"),
    [
        ("NIKON CORPORATION", "NIKON D800", "NIKON D800"),
        ("EASTMAN KODAK COMPANY", "KODAK DC240", "KODAK DC240"),
        ("Apple", "iPhone 4\0junk", "Apple iPhone 4"),
        ("HUAWEI", "", "HUAWEI"),
        ("", "  X100  ", "X100"),
        ("<script>\x07", "\n", "<script>"),
        ("", "", None),
        ("M" * 500, "N" * 500, ("M" * 80)),
    ],
)
def test_cameras_have_the_names_that_people_use(tmp_path: Path, maker: str, model: str, camera: str | None) -> None:
    photo = read_bytes(tmp_path, encoded(corners(), exif=exif({0x010F: maker, 0x0110: model})))
    assert photo.camera == camera


def test_broken_exif_costs_no_photo(tmp_path: Path) -> None:
    good = encoded(corners(), exif=exif({0x010F: "Canon", DATE: "2019:05:21 14:03:59"}))
    start = good.index(b"Exif\0\0") + 6
    for at in range(start, start + 60):
        broken = bytearray(good)
        broken[at] ^= 0xFF
        assert read_bytes(tmp_path, bytes(broken)).format == "JPEG"


# Colour


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (64, 64), (255, 0, 0, 128))
    assert difference(as_rendered(tmp_path, encoded(half, "PNG")), np.full((64, 64, 3), (255, 127, 127))) < 3
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert difference(as_rendered(tmp_path, encoded(palette, "PNG")), np.full((64, 64, 3), (10, 200, 30))) < 3
    clear = encoded(palette, "PNG", transparency=1)
    assert difference(as_rendered(tmp_path, clear), np.full((64, 64, 3), 255)) < 1
    grey = encoded(Image.new("LA", (64, 64), (0, 0)), "PNG")
    assert difference(as_rendered(tmp_path, grey), np.full((64, 64, 3), 255)) < 1
    assert (
        difference(as_rendered(tmp_path, encoded(half, "WEBP", lossless=True)), np.full((64, 64, 3), (255, 127, 127)))
        < 3
    )


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (np.full((32, 32), 0x8080, np.uint16), "PNG", 128),
        (np.full((32, 32), 0x8080, np.uint16), "TIFF", 128),
        (np.full((32, 32), 2048, np.uint16), "TIFF", 127),  # 12 bits in 16
        (np.full((32, 32), 0.5, np.float32), "TIFF", 127),
        (np.full((32, 32), 200.0, np.float32), "TIFF", 200),
        (np.full((32, 32), np.nan, np.float32), "TIFF", 0),
        (np.full((32, 32), 1, bool), "PNG", 255),
    ],
)
def test_any_depth_becomes_eight_bits(tmp_path: Path, values: np.ndarray, kind: str, expected: int) -> None:
    assert abs(as_rendered(tmp_path, encoded(Image.fromarray(values), kind)).mean() - expected) < 1.5


def test_cmyk_and_profiles(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (64, 64), (0, 255, 255, 0))
    red = as_rendered(tmp_path, encoded(cmyk, quality=95)).mean(axis=(0, 1))
    assert red[0] > 230 and red[1] < 40 and red[2] < 40
    lab = ImageCms.applyTransform(
        Image.new("RGB", (32, 32), (30, 160, 60)),
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    green = as_rendered(tmp_path, encoded(lab, "TIFF")).mean(axis=(0, 1))
    assert np.abs(green - (30, 160, 60)).max() < 6


def swapped_profile() -> bytes:
    """An RGB profile whose red primary is green's and the other way round, so that using it shows."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    at = {bytes(data[132 + 12 * k : 136 + 12 * k]): 136 + 12 * k for k in range(count)}
    red, green = bytes(data[at[b"rXYZ"] : at[b"rXYZ"] + 8]), bytes(data[at[b"gXYZ"] : at[b"gXYZ"] + 8])
    data[at[b"rXYZ"] : at[b"rXYZ"] + 8], data[at[b"gXYZ"] : at[b"gXYZ"] + 8] = green, red
    return bytes(data).replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def test_a_profile_is_applied_and_a_broken_one_ignored(tmp_path: Path) -> None:
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    seen = as_rendered(tmp_path, encoded(red, "PNG", icc_profile=swapped_profile())).mean(axis=(0, 1))
    assert seen[1] > 200 and seen[0] < 60
    plain = as_rendered(tmp_path, encoded(red, "PNG", icc_profile=b"not a profile" * 20)).mean(axis=(0, 1))
    assert plain[0] > 240 and plain[1] < 15


# Formats


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("HEIF", {"quality": 95}),
        ("AVIF", {"quality": 95}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("GIF", {}),
        ("BMP", {}),
        ("JPEG2000", {}),
        ("PPM", {}),
        ("TGA", {}),
        ("PCX", {}),
        ("SGI", {}),
        ("ICO", {"sizes": [(96, 64)]}),
    ],
)
def test_formats(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    photo = read_bytes(tmp_path, encoded(corners(), kind, **options), "photo.tga" if kind == "TGA" else "photo")
    assert (photo.format, photo.width, photo.height, photo.damaged) == (kind, 96, 64, False)
    assert difference(shown(photo), np.asarray(corners())) < 12
    assert photo.pixels.shape == (224, 224, 3) and photo.pixels.dtype == np.uint8


def test_animations_show_their_first_picture(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (64, 64), (200, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 200))
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        data = encoded(first, kind, save_all=True, append_images=[second])
        seen = as_rendered(tmp_path, data).mean(axis=(0, 1))
        assert seen[0] > 180 and seen[2] < 20, kind
    assert read_bytes(tmp_path, encoded(first, "MPO", save_all=True, append_images=[second])).format == "JPEG"


def test_thumbnail_and_render_sizes(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "wide.jpg", size=(3000, 1000))
    assert shown(read_photo(path)).shape == (160, 480, 3)
    for long_side, size in ((1920, (1920, 640)), (100, (100, 33)), (8000, (3000, 1000))):
        assert Image.open(io.BytesIO(render(path, long_side))).size == size
    tiny = read_bytes(tmp_path, encoded(Image.new("RGB", (1, 1)), "PNG"))
    assert shown(tiny).shape == (1, 1, 3) and tiny.pixels.shape == (224, 224, 3)
    thin = read_bytes(tmp_path, encoded(Image.new("RGB", (5000, 1)), "PNG"))
    assert shown(thin).shape == (1, 480, 3)
    with pytest.raises(OptionError, match="1 to 8192"):
        render(path, 0)


def test_previews_carry_no_metadata(tmp_path: Path) -> None:
    secret = exif({0x010F: "SECRETCAM"}, gps={1: "N", 2: (48.0, 0.0, 0.0), 3: "E", 4: (9.0, 0.0, 0.0)})
    data = encoded(noise(900, 600), exif=secret, comment=b"SECRETNOTE", icc_profile=swapped_profile())
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    for made in (render(path, 1920), render(path, 200), read_photo(path).thumbnail):
        image = Image.open(io.BytesIO(made))
        assert b"SECRET" not in made and b"Exif" not in made and "icc_profile" not in image.info
        assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}


@pytest.mark.parametrize(
    ("width", "height", "kept"), [(600, 400, 490), (400, 600, 490), (500, 500, 500), (4000, 10, 200)]
)
def test_model_input_crops_half_of_the_way_and_squeezes_the_rest(width: int, height: int, kept: int) -> None:
    inside = (min(width, kept), min(height, kept))
    picture = Image.new("RGB", (width, height), (0, 0, 0))
    left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
    picture.paste((255, 255, 255), (left, top, left + inside[0], top + inside[1]))
    seen = model_input(picture)
    assert seen.shape == (224, 224, 3) and seen.dtype == np.uint8
    assert seen[2:-2, 2:-2].min() == 255  # all of what is kept, and no more than that
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    picture.paste((0, 0, 0), (left + 8, top + 8, left + inside[0] - 8, top + inside[1] - 8)) if kept > 200 else None
    assert model_input(picture)[[0, -1]].min() == 255 and model_input(picture)[:, [0, -1]].min() == 255


def test_model_input_keeps_proportions_where_it_can() -> None:
    assert (
        difference(
            model_input(noise(500, 500)), np.asarray(noise(500, 500).resize((224, 224), Image.Resampling.BICUBIC))
        )
        < 1
    )


def test_reduced_decoding_changes_little(tmp_path: Path) -> None:
    image = noise(3200, 2400)
    quick = read_bytes(tmp_path, encoded(image, quality=92))
    full = model_input(image)
    assert difference(quick.pixels, full) < 2.5


# What is no photo, or not any more


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "a.jpg", "empty"),
        (b"hello, this is a letter\n" * 9, "a.jpg", "not_an_image"),
        (b"%PDF-1.7\n", "a.pdf", "other_kind"),
        (b"PK\x03\x04" + bytes(60), "a.zip", "other_kind"),
        (bytes(5000), "a.jpg", "not_an_image"),
        (b"BM, she wrote, was a car maker's first two letters", "a.txt", "other_kind"),
        (b"", "a.txt", "other_kind"),
        (b"GIF, she wrote", "A.JPG", "not_an_image"),
        (b"no suffix, no picture", "README", "other_kind"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(99), "a.mp4", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  " + bytes(99), "a.mov", "video"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(99), "a.avi", "video"),
        (b"\x1aE\xdf\xa3" + bytes(99), "a.mkv", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom" + bytes(99), "a.cr3", "camera_raw"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "a.cr2", "camera_raw"),
        (b"MM\0*\0\0\0\x08" + bytes(99), "a.NEF", "camera_raw"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(99), "a.raf", "camera_raw"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a.eps", "unsupported"),
        (b"\xff\x0a" + bytes(99), "a.jxl", "unsupported"),
        (b"\xff\xd8\xff\xe0" + bytes(99), "a.jpg", "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a.png", "damaged"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "a.heic", "damaged"),
    ],
)
def test_what_is_no_photo_is_told_apart(tmp_path: Path, data: bytes, name: str, reason: str) -> None:
    assert refusal(tmp_path, data, name) == reason


def test_a_raw_file_that_calls_itself_tiff(tmp_path: Path) -> None:
    data = encoded(corners(), "TIFF", tiffinfo={50706: b"\x01\x04\0\0"})
    assert refusal(tmp_path, data, "a.tif") == "camera_raw"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_cut_short_is_shown_if_most_is_there(tmp_path: Path, options: dict[str, object]) -> None:
    whole = encoded(noise(800, 600), quality=90, **options)
    most = read_bytes(tmp_path, whole[: len(whole) * 8 // 10])
    assert most.damaged and (most.width, most.height) == (800, 600)
    upper = shown(most)[:150]
    assert difference(upper, shown(read_bytes(tmp_path, whole))[:150]) < (25 if "progressive" in options else 2)
    assert not read_bytes(tmp_path, whole).damaged
    if "progressive" not in options:  # a progressive one is blurred all over instead
        assert refusal(tmp_path, whole[: len(whole) * 3 // 10]) == "truncated"
    assert refusal(tmp_path, whole[:700]) in ("truncated", "damaged")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "WEBP", "HEIF", "AVIF", "JPEG2000", "ICO"])
def test_other_formats_cut_short_end_in_a_photo_or_a_reason(tmp_path: Path, kind: str) -> None:
    whole = encoded(noise(300, 200), kind)
    for share in (0.05, 0.3, 0.6, 0.9, 0.99):
        try:
            assert read_bytes(tmp_path, whole[: int(len(whole) * share)]).width == 300 or kind == "ICO"
        except Unreadable as error:
            assert error.reason in ("truncated", "damaged") or (kind, error.reason) == ("ICO", "not_an_image")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "HEIF", "AVIF", "PPM", "PCX"]), st.data())
def test_no_damage_escapes_as_another_error(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    broken = bytearray(encoded(corners(), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_bytes(tmp_path, bytes(broken), memory=64 * MIB)
    except Unreadable as error:
        assert error.reason in REASONS


# Bombs


def test_pictures_too_large_for_memory_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(tmp_path, png(2**31 - 1, 2**31 - 1, pixels=zlib.compress(b"\0")), "a.png") == "too_large"
    assert refusal(tmp_path, png(30_000, 30_000, pixels=zlib.compress(b"\0")), "a.png") == "too_large"
    assert refusal(tmp_path, png(15_000, 15_000, pixels=zlib.compress(b"\0")), "a.png", memory=512 * MIB) == "too_large"
    webp = bytearray(encoded(corners(), "WEBP", exif=exif({ORIENTATION: 1})))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = b"\xfe\x3f\0\xfe\x3f\0"  # 16383 x 16383
    assert refusal(tmp_path, bytes(webp), "a.webp", memory=256 * MIB) in ("too_large", "damaged")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB


def test_compressed_metadata_bombs_take_little_and_keep_the_photo(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(200 * MIB), 9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, head in ((b"iCCP", b"p\0\0"), (b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\x01\0\0\0")):
        photo = read_bytes(tmp_path, png(64, 48, png_chunk(kind, head + bomb)), "a.png")
        assert (photo.width, photo.height) == (64, 48)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000


def test_a_200_megapixel_panorama_is_read_at_reduced_size(tmp_path: Path) -> None:
    # One 2000-pixel strip, repeated by restart intervals in a hand-widened header, is quicker made than 200 megapixels.
    path = tmp_path / "panorama.jpg"
    Image.new("L", (20_000, 10_000), 140).save(path, "JPEG", quality=30)
    photo = read_photo(path, Limits(memory=256 * MIB, file_bytes=96 * MIB))
    assert (photo.width, photo.height) == (20_000, 10_000)
    assert shown(photo).shape == (240, 480, 3)


def test_a_file_larger_than_any_photo_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "endless.jpg"
    with path.open("wb") as stream:
        stream.write(encoded(corners()))
        stream.truncate(1 << 40)  # sparse
    started = time.monotonic()
    with pytest.raises(Unreadable) as caught:
        read_photo(path)
    assert caught.value.reason == "file_too_large"
    film = tmp_path / "film.mp4"
    with film.open("wb") as stream:
        stream.write(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
        stream.truncate(1 << 40)
    with pytest.raises(Unreadable) as caught:
        read_photo(film)
    assert caught.value.reason == "video"
    assert time.monotonic() - started < 20


# Files that are none, or that change


def test_pipes_devices_folders_and_missing_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    cases = {
        "pipe.jpg": "not_a_file",
        "zero.jpg": "not_a_file",
        "folder.jpg": "not_a_file",
        "loop.jpg": "link_circle",
        "none.jpg": "missing",
        "nul\0.jpg": "missing",
        "n" * 300: "name_too_long",
    }
    for name, reason in cases.items():
        with pytest.raises(Unreadable) as caught:
            read_photo(f"{tmp_path}/{name}")
        assert caught.value.reason == reason, name


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_photo(tmp_path / "a.jpg")

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("homespun.album.imaging.source.os.open", refuse)
    with pytest.raises(Unreadable) as caught:
        read_photo(path)
    assert caught.value.reason == "permission"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else; others are covered by the mode below")
def test_permission_as_another_user(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg")
    path.chmod(0)
    program = (
        "import os, sys; sys.path[:] = eval(sys.argv[2]); from homespun.album.imaging import *\n"
        "os.setuid(65534)\n"
        "try: read_photo(sys.argv[1])\n"
        "except Unreadable as error: print(error.reason)"
    )
    for folder in [tmp_path, *tmp_path.parents][:3]:
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", program, path, repr(sys.path)], capture_output=True, text=True)
    assert done.stdout.strip() == "permission", done.stderr


def test_names_in_any_encoding(tmp_path: Path) -> None:
    for raw in (b"caf\xe9.jpg", "生日.jpg".encode("gbk"), "家人.jpg".encode(), b"new\nline.jpg", b"-rf *.jpg"):
        path = os.fsencode(tmp_path) + b"/" + raw
        with open(path, "wb") as stream:  # noqa: PTH123
            stream.write(encoded(corners()))
        assert read_photo(path).format == "JPEG"
        assert read_photo(os.fsdecode(path)).format == "JPEG"
        assert render(Path(os.fsdecode(path)), 100)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_photo(tmp_path / "a.jpg", size=(900, 700))
    data, real_read = path.read_bytes(), os.read
    times = 0

    def growing_read(descriptor: int, count: int) -> bytes:
        nonlocal times
        times += 1
        with path.open("ab") as stream:
            stream.write(b"more")
        return real_read(descriptor, count)

    monkeypatch.setattr("homespun.album.imaging.source.os.read", growing_read)
    with pytest.raises(Unreadable) as caught:
        read_photo(path)
    assert caught.value.reason == "changed_while_read"
    path.write_bytes(data)
    times = 0

    def read_with_one_change(descriptor: int, count: int) -> bytes:
        nonlocal times
        times += 1
        if times == 1:
            path.touch()
        return real_read(descriptor, count)

    monkeypatch.setattr("homespun.album.imaging.source.os.read", read_with_one_change)
    assert read_photo(path).byte_size == len(data)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_photo(tmp_path / "a.jpg", size=(900, 700))
    real_read = os.read

    def shrinking_read(descriptor: int, count: int) -> bytes:
        os.truncate(path, 100)
        return real_read(descriptor, count)

    monkeypatch.setattr("homespun.album.imaging.source.os.read", shrinking_read)
    with pytest.raises(Unreadable) as caught:
        read_photo(path)
    assert caught.value.reason in ("changed_while_read", "truncated")


def test_a_drive_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_photo(tmp_path / "a.jpg")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("homespun.album.imaging.source.os.read", fail)
    with pytest.raises(Unreadable) as caught:
        read_photo(path)
    assert caught.value.reason == "read_error"


# Hashes


def test_a_content_that_is_known_is_not_decoded_again(tmp_path: Path) -> None:
    path = write_photo(tmp_path / "a.jpg")
    photo = read_photo(path)
    assert re.fullmatch("[0-9a-f]{64}", photo.content_hash)
    assert read_unless_seen(path, [photo.content_hash], Limits()) == SeenBefore(photo.content_hash)
    assert isinstance(read_unless_seen(path, ["0" * 64], Limits()), PhotoData)
    broken = tmp_path / "b.jpg"
    broken.write_bytes(b"\xff\xd8\xff" + bytes(50))
    import hashlib

    known = hashlib.sha256(broken.read_bytes()).hexdigest()
    assert read_unless_seen(broken, [known], Limits()) == SeenBefore(known)  # so nothing was decoded


# Reasons


def test_every_reason_is_explained_in_both_languages() -> None:
    for code, reason in REASONS.items():
        assert reason.english.endswith(".") and len(reason.english.split()) > 5, code
        assert reason.chinese.endswith("。") and re.search("[\u4e00-\u9fff]", reason.chinese), code
        assert explain(code, "zh-CN") == reason.chinese and explain(code) == reason.english
    assert explain("of_the_future") == "of_the_future"
    assert "too much" not in str(Unreadable("empty", "0 bytes")) and "(0 bytes)" in str(Unreadable("empty", "0 bytes"))
    with pytest.raises(ValueError, match="unknown reason"):
        Unreadable("whatever")


def test_reading_from_threads_keeps_pillow_strict(tmp_path: Path) -> None:
    whole = encoded(noise(400, 300), "PNG")
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) * 8 // 10])
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(read_photo(cut).damaged)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    with pytest.raises(OSError, match="truncated"):
        Image.open(cut).load()


def test_the_documentation_lists_every_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "photos.md").read_text(encoding="utf-8")
    for code, reason in REASONS.items():
        assert f"| `{code}` | {reason.english} | {reason.chinese} |" in page, code
