"""From the bytes of a file to what the album keeps of a photo: hash, date, place, thumbnail and the network's input.

Called by the decode workers (`album.workers`) and, in-process, by whoever has one file to look at. A file that can't be
read raises `Unreadable` with one of the codes that `reasons` explains to people.
"""

from homespun.album.imaging.photo import Limits, PhotoData, SeenBefore, Unreadable
from homespun.album.imaging.read import read_photo, render
from homespun.album.imaging.sizes import MODEL_SIZE, THUMBNAIL_LONG_SIDE, model_input, thumbnail

__all__ = [
    "MODEL_SIZE",
    "THUMBNAIL_LONG_SIDE",
    "Limits",
    "PhotoData",
    "SeenBefore",
    "Unreadable",
    "model_input",
    "read_photo",
    "render",
    "thumbnail",
]
