"""When, where and with what a photo was taken: out of EXIF that anything may have written, or else the file's name.

Every value is checked for sense, and what makes none is left out: a photo without a date is better than one in 1904.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

FIRST_PHOTOGRAPH = 1826
LONGEST_CAMERA_NAME = 80


@dataclass(frozen=True, slots=True)
class Metadata:
    """`taken` is local time, ISO 8601 with seconds and no zone; degrees are WGS 84, north and east positive."""

    taken: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None


def read_metadata(image: Image.Image, name: str, now: datetime | None = None) -> Metadata:
    """What the EXIF of an opened picture says, and where it is silent on the date, the file's name."""
    exif = _attempt(image.getexif) or Image.Exif()
    details = _attempt(lambda: exif.get_ifd(IFD.Exif)) or {}
    place = _attempt(lambda: exif.get_ifd(IFD.GPSInfo)) or {}
    root: Mapping[int, Any] = _attempt(lambda: dict(exif)) or {}
    now = now or datetime.now()
    latitude, longitude = _position(place)
    return Metadata(
        taken=_taken(root, details, place, now) or date_in_name(name, now),
        latitude=latitude,
        longitude=longitude,
        camera=_camera(root),
    )


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where there is none, or none that makes sense."""
    exif = _attempt(image.getexif)
    value = _attempt(lambda: exif.get(Base.Orientation)) if exif is not None else None
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _attempt(read: Callable[[], Any]) -> Any:
    """What Pillow's EXIF parser makes of it. It is fed bytes from anywhere and raises whatever it stumbles over."""
    try:
        return read()
    except Exception:  # noqa: BLE001 - broken metadata never costs a photo
        return None


def _taken(root: Mapping[int, Any], details: Mapping[int, Any], place: Mapping[int, Any], now: datetime) -> str | None:
    candidates = (
        details.get(Base.DateTimeOriginal),
        root.get(Base.DateTimeOriginal),
        details.get(Base.DateTimeDigitized),
        details.get(Base.DateTime),
        root.get(Base.DateTime),
        place.get(GPS.GPSDateStamp),
    )
    for value in candidates:
        moment = parse_date(value, now)
        if moment is not None:
            return moment
    return None


_DATE = re.compile(r"\s*(\d{4})[:\-/. ](\d{1,2})[:\-/. ](\d{1,2})(?:[T ]+(\d{1,2}):(\d{1,2})(?::(\d{1,2}))?)?")


def parse_date(value: object, now: datetime) -> str | None:
    """ISO 8601 local time of an EXIF date in any of the spellings that cameras and programs use; None if senseless.

    >>> parse_date("2019:05:21 14:03:59", datetime(2024, 1, 1))
    '2019-05-21T14:03:59'
    >>> parse_date("0000:00:00 00:00:00", datetime(2024, 1, 1)) is None
    True
    """
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if not isinstance(value, str):
        return None
    match = _DATE.match(value)
    return _moment([int(part or 0) for part in match.groups()], now) if match else None


def _moment(parts: list[int], now: datetime) -> str | None:
    if len(parts) == 6 and parts[5] == 60:  # a leap second, or a rounding camera
        parts[5] = 59
    try:
        moment = datetime(*parts)  # type: ignore[arg-type]
    except ValueError:
        return None
    # A day of grace: clocks stand in other time zones.
    if moment.year < FIRST_PHOTOGRAPH or moment > now + timedelta(days=1):
        return None
    return moment.isoformat(timespec="seconds")


# IMG_20190521_140359.jpg, PXL_20210102_030405678.jpg, Screenshot_2019-05-21-14-03-59.png, 2019-05-21 14.03.59.jpg,
# IMG-20190521-WA0001.jpg (WhatsApp), signal-2021-01-02-030405.jpg
_NAME_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])"
    r"(?:[-_ T.]{1,3}(?:at )?([01]\d|2[0-3])([-_.:h]?)([0-5]\d)\6([0-5]\d)\d{0,3})?(?!\d)"
)
# mmexport1558425839123.jpg (WeChat), wx_camera_1558425839123.jpg: milliseconds since 1970.
_NAME_EPOCH = re.compile(r"(?:mmexport|wx_camera_|microMsg\.?|FB_IMG_|received_)(1[0-9]{12})(?!\d)", re.IGNORECASE)


def date_in_name(name: str, now: datetime) -> str | None:
    """The date that phones and messengers write into a file's name, where they strip the EXIF; None if there is none.

    >>> date_in_name("IMG-20190521-WA0001.jpg", datetime(2024, 1, 1))
    '2019-05-21T00:00:00'
    >>> date_in_name("DSC_2019.jpg", datetime(2024, 1, 1)) is None
    True
    """
    if match := _NAME_EPOCH.search(name):
        moment = datetime.fromtimestamp(int(match[1]) / 1000)
        return _moment([moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second], now)
    if match := _NAME_DATE.search(name):
        year, _, month, day, hour, _, minute, second = match.groups()
        return _moment([int(part or 0) for part in (year, month, day, hour, minute, second)], now)
    return None


def _position(place: Mapping[int, Any]) -> tuple[float | None, float | None]:
    latitude = _degrees(place.get(GPS.GPSLatitude), place.get(GPS.GPSLatitudeRef), "S", 90.0)
    longitude = _degrees(place.get(GPS.GPSLongitude), place.get(GPS.GPSLongitudeRef), "W", 180.0)
    # Nobody photographs in the sea off Ghana; receivers without a fix say that they do.
    if latitude is None or longitude is None or (abs(latitude) < 1e-6 and abs(longitude) < 1e-6):
        return None, None
    return latitude, longitude


def _degrees(value: object, reference: object, negative: str, most: float) -> float | None:
    """Degrees, minutes and seconds (or fewer of them) as one number, six decimals; None outside of the globe."""
    parts: list[Any] = list(value) if isinstance(value, tuple | list) else [value]
    if not 1 <= len(parts) <= 3:
        return None
    try:
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    if not all(math.isfinite(number) for number in numbers):
        return None
    size: float = sum(abs(number) / 60**power for power, number in enumerate(numbers))
    if size > most:
        return None
    if isinstance(reference, bytes):
        reference = reference.decode("ascii", "replace")
    below_zero = numbers[0] < 0 or (isinstance(reference, str) and reference.strip().upper().startswith(negative))
    return round(-size if below_zero else size, 6)


def _camera(root: Mapping[int, Any]) -> str | None:
    """Maker and model as people say them: "Canon EOS 70D", not "Canon Canon EOS 70D"."""
    maker, model = _text(root.get(Base.Make)), _text(root.get(Base.Model))
    if not model:
        return maker
    if not maker or model.lower().startswith(tuple(word.lower() for word in maker.split())):
        return model[:LONGEST_CAMERA_NAME]
    return f"{maker} {model}"[:LONGEST_CAMERA_NAME].rstrip()


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    printable = "".join(letter if letter.isprintable() else " " for letter in value.split("\0")[0])
    return " ".join(printable.split())[:LONGEST_CAMERA_NAME].rstrip() or None
