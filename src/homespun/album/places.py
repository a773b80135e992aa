"""Names for coordinates, offline: the nearest city out of a table that ships with the album.

`store.Store` asks for the place of each new photo that has coordinates. The table (GeoNames, CC BY 4.0) is made by
`tools/build_places.py`.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

TABLE = Path(__file__).parent / "assets" / "places.tsv.gz"

# A city is taken for a disc in which its people live this densely, and a photo belongs to the disc whose edge is
# nearest: so a suburb's photos go to the city that it is part of, and a small town keeps its own.
PEOPLE_PER_SQUARE_KM = 3000.0
# Further than this from every city, coordinates say more than a name.
FARTHEST_KM = 100.0
EARTH_RADIUS_KM = 6371.0


@dataclass(frozen=True, slots=True)
class NamedPlace:
    """A city, or a square of the map where no city is near."""

    key: str
    name_en: str
    name_zh: str
    latitude: float
    longitude: float


def nearest_place(latitude: float | None, longitude: float | None) -> NamedPlace | None:
    """The place of a photo taken at these coordinates (degrees), None where it has none.

    >>> nearest_place(47.38, 8.54).name_en
    'Zürich, Switzerland'
    >>> nearest_place(-48.9, -123.4).name_en
    '-48.9, -123.4'
    """
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return None
    cities = _cities()
    here = _on_sphere(np.array([latitude]), np.array([longitude]))[0]
    chords = np.linalg.norm(cities.points - here, axis=1)
    distances = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chords / 2, 1.0)) - cities.radii
    nearest = int(distances.argmin())
    if distances[nearest] > FARTHEST_KM:
        square = f"{latitude:.1f}, {longitude:.1f}"
        return NamedPlace(square.replace(" ", ""), square, square, round(latitude, 1), round(longitude, 1))
    return cities.place(nearest)


@dataclass(frozen=True)
class _Cities:
    lines: list[str]
    points: npt.NDArray[np.float64]
    radii: npt.NDArray[np.float64]

    def place(self, index: int) -> NamedPlace:
        number, latitude, longitude, _, name, chinese, country, chinese_country = self.lines[index].split("\t")
        return NamedPlace(
            key=f"geonames-{number}",
            name_en=f"{name}, {country}",
            name_zh=f"{chinese or name}, {chinese_country}",
            latitude=float(latitude),
            longitude=float(longitude),
        )


@cache
def _cities() -> _Cities:
    """All cities: points (N, 3) on the unit sphere and radii (N,) in km."""
    lines = gzip.decompress(TABLE.read_bytes()).decode().split("\n")
    numbers = np.array([line.split("\t", 4)[1:4] for line in lines], dtype=np.float64)
    radii = np.sqrt(numbers[:, 2] / (np.pi * PEOPLE_PER_SQUARE_KM))
    return _Cities(lines, _on_sphere(numbers[:, 0], numbers[:, 1]), radii)


def _on_sphere(latitudes: npt.NDArray[np.float64], longitudes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    phi, theta = np.radians(latitudes), np.radians(longitudes)
    return np.stack([np.cos(phi) * np.cos(theta), np.cos(phi) * np.sin(theta), np.sin(phi)], axis=-1)
