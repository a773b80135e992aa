"""What the album knows, written out for other programs: a JSON or CSV table, and XMP sidecars when asked for.

`Album.export` calls this. Photos stream through one at a time, so that a large library needs no more memory than a
small one. Originals are never opened for writing.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape

from homespun.album import search
from homespun.album.disk import replacing, write_file
from homespun.album.errors import LibraryError
from homespun.album.model import Photo
from homespun.album.standing import Standing
from homespun.album.store import Store
from homespun.errors import OptionError

FORMATS = ("json", "csv")
SIDECAR_MARK = "Homespun"

CSV_COLUMNS = [
    "id",
    "path",
    "taken",
    "width",
    "height",
    "latitude",
    "longitude",
    "place",
    "camera",
    "status",
    "topics",
    "topics_zh",
    "confirmed",
    "rejected",
    "confidences",
]


def export(store: Store, standing: Standing, target: Path, format: str, sidecars: str | os.PathLike[str] | bool) -> int:
    """See `album.Album.export`."""
    if format not in FORMATS:
        raise OptionError(f"an export is written as {' or '.join(FORMATS)}, not {format!r}")
    count = 0
    with replacing(target, durable=True) as raw:
        stream = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        write = _JsonTable(stream) if format == "json" else _CsvTable(stream)
        for photo in _photos(store, standing):
            write.photo(photo)
            if sidecars is not False:
                for path in _files(store, photo.id):
                    _write_sidecar(photo, path, None if sidecars is True else Path(sidecars))
            count += 1
        write.end()
        stream.detach()  # writes what it holds; `replacing` closes the file
    return count


def sidecar(photo: Photo) -> str:
    """An XMP packet with the photo's topics as keywords (dc:subject; XMP specification part 1, 2012)."""
    names = dict.fromkeys(name for topic in photo.topics if topic.present for name in (topic.name_en, topic.name_zh))
    items = "\n".join(f"     <rdf:li>{escape(name)}</rdf:li>" for name in names)
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="{SIDECAR_MARK}">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:subject>
    <rdf:Bag>
{items}
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def _photos(store: Store, standing: Standing) -> Iterator[Photo]:
    with store.reader() as connection:
        for (photo_id,) in connection.execute("SELECT id FROM photo ORDER BY sort_date, id").fetchall():
            yield from search.read_photos(connection, [photo_id], standing)


def _files(store: Store, photo_id: int) -> list[bytes]:
    query = "SELECT path FROM file WHERE photo_id = ? AND vanished = 0 ORDER BY path"
    with store.reader() as connection:
        return [path for (path,) in connection.execute(query, (photo_id,))]


def _write_sidecar(photo: Photo, original: bytes, folder: Path | None) -> None:
    """Write a sidecar beside the original, or at the original's path inside `folder`.

    A sidecar that another program made stays as it is: `LibraryError` names it.
    """
    path = Path(os.fsdecode(original))
    if folder is not None:
        path = folder / path.relative_to(path.anchor)
    target = path.with_name(path.name + ".xmp")
    if target.exists() and SIDECAR_MARK.encode() not in target.read_bytes():
        raise LibraryError(f"{target} was made by another program; export sidecars to a folder instead")
    write_file(target, sidecar(photo).encode())


class _JsonTable:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._separator = '{"format": 1, "photos": [\n'

    def photo(self, photo: Photo) -> None:
        self._stream.write(self._separator + json.dumps(asdict(photo), ensure_ascii=False))
        self._separator = ",\n"

    def end(self) -> None:
        self._stream.write("\n]}\n" if self._separator == ",\n" else self._separator + "]}\n")


class _CsvTable:
    def __init__(self, stream: IO[str]) -> None:
        stream.write("\ufeff")  # spreadsheets take a file for UTF-8 only with this mark
        self._writer = csv.DictWriter(stream, CSV_COLUMNS)
        self._writer.writeheader()

    def photo(self, photo: Photo) -> None:
        present = [topic for topic in photo.topics if topic.present]
        row: dict[str, Any] = {
            "id": photo.id,
            "path": photo.paths[0] if photo.paths else photo.name,
            "topics": _joined(topic.key for topic in present),
            "topics_zh": _joined(topic.name_zh for topic in present),
            "confirmed": _joined(topic.key for topic in present if topic.source == "human"),
            "rejected": _joined(topic.key for topic in photo.topics if not topic.present),
            "confidences": _joined(f"{t.key}={t.confidence:.3f}" for t in present if t.confidence is not None),
        }
        for column in CSV_COLUMNS:
            row.setdefault(column, getattr(photo, column, None))
        self._writer.writerow(row)

    def end(self) -> None:
        """Nothing follows the last row."""


def _joined(words: Iterable[str]) -> str:
    return "; ".join(words)
