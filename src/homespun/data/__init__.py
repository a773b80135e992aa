"""Data: folders of pictures, arrays, anything that gives samples; augmentation; an order that can be taken up anywhere.

`Trainer.fit` and `Trainer.evaluate` take these data sets. Reading pictures needs Pillow (`pip install
'homespun[images]'`), the rest only NumPy.
"""

from homespun.data.arrays import Arrays, Samples
from homespun.data.augment import ColourJitter, RandomErasing, RandomFlip, RandomResizedCrop, light, strong
from homespun.data.dataset import DataSet
from homespun.data.folder import ImageFolder, Unreadable
from homespun.data.mixing import CutMix, MixUp
from homespun.data.pictures import read_pixels
from homespun.data.preprocessing import Preprocessing
from homespun.data.stream import Stream
from homespun.data.text import MaskedTexts, Texts, WordPiece

__all__ = [
    "Arrays",
    "ColourJitter",
    "CutMix",
    "DataSet",
    "ImageFolder",
    "MaskedTexts",
    "MixUp",
    "Preprocessing",
    "RandomErasing",
    "RandomFlip",
    "RandomResizedCrop",
    "Samples",
    "Stream",
    "Texts",
    "Unreadable",
    "WordPiece",
    "light",
    "read_pixels",
    "strong",
]
