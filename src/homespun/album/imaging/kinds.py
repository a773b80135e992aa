"""What a file is, from its first bytes: which of Pillow's readers may see it, or why none may.

Only readers on the list below are ever used: no external programs (EPS, WMF), no archives, no readers that guess.
"""

from __future__ import annotations

from homespun.album.imaging.photo import Unreadable

# Readers of Pillow (and pillow-heif) that the album uses, by Pillow's own names.
# "JPEG" opens pictures with several frames ("MPO") as well.
JPEG, PNG, HEIF, AVIF, TIFF, TGA = ("JPEG",), ("PNG",), ("HEIF",), ("AVIF",), ("TIFF",), ("TGA",)

_STARTS: tuple[tuple[bytes, tuple[str, ...] | str], ...] = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", ("GIF",)),
    (b"GIF89a", ("GIF",)),
    (b"II*\x00\x10\x00\x00\x00CR", "camera_raw"),
    (b"IIRO", "camera_raw"),
    (b"IIRS", "camera_raw"),
    (b"IIU\x00", "camera_raw"),
    (b"FUJIFILMCCD-RAW", "camera_raw"),
    (b"FOVb", "camera_raw"),
    (b"\x00MRM", "camera_raw"),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"II+\x00", TIFF),
    (b"MM\x00+", TIFF),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", ("JPEG2000",)),
    (b"\xff\x4f\xff\x51", ("JPEG2000",)),
    (b"8BPS", ("PSD",)),
    (b"qoif", ("QOI",)),
    (b"icns", ("ICNS",)),
    (b"\x00\x00\x01\x00", ("ICO",)),
    (b"\x01\xda", ("SGI",)),
    (b"\x1aE\xdf\xa3", "video"),  # Matroska, WebM
    (b"FLV", "video"),
    (b"\x00\x00\x01\xba", "video"),  # MPEG
    (b"\x00\x00\x01\xb3", "video"),
    (b"0&\xb2u\x8ef\xcf\x11", "video"),  # ASF, WMV
    (b"%!PS", "unsupported"),
    (b"%PDF", "not_an_image"),
    (b"\xd7\xcd\xc6\x9a", "unsupported"),  # WMF
    (b"DDS ", "unsupported"),
    (b"BLP", "unsupported"),
    (b"FTEX", "unsupported"),
    (b"SIMPLE  =", "unsupported"),  # FITS
    (b"GRIB", "unsupported"),
    (b"DanM", "unsupported"),  # Windows Paint 1 and 2
    (b"LinS", "unsupported"),
    (b"/* XPM */", "unsupported"),
    (b"Image type:", "unsupported"),  # IFUNC
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "unsupported"),
    (b"\xff\x0a", "unsupported"),  # JPEG XL
)

# What pictures are called. A file of another name that holds none is a file of another kind, not a broken picture.
_PICTURE_SUFFIXES = frozenset(
    b".jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .heic .heif .hif .avif .tif .tiff .bmp .dib .jp2 .j2k .jpf .jpx "
    b".jxl .psd .qoi .ico .icns .sgi .tga .pcx .ppm .pgm .pbm .pnm .pfm .svg .raw .crw .cr3 .raf .orf .rw2 .x3f "
    b".mrw".split()
)

_HEVC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
_AV1_BRANDS = {b"avif", b"avis"}
_CONTAINER_BRANDS = {b"mif1", b"mif2", b"msf1"}

_RAW_SUFFIXES = frozenset(b".nef .nrw .arw .sr2 .srf .dng .pef .cr2 .3fr .iiq .rwl .srw .erf".split())
_BMP_HEADER_SIZES = frozenset(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))
_NETPBM = frozenset(b"123456fF")


def readers_for(head: bytes, name: bytes) -> tuple[str, ...]:
    """The readers that may open a file with these first bytes, by Pillow's names, likeliest first.

    `name` decides only what bytes can't: Targa has no signature, and most raw files call themselves TIFF.
    Raises `Unreadable`: not_an_image, video, camera_raw or unsupported.
    """
    suffix = _suffix(name)
    for start, kind in _STARTS:
        if head.startswith(start):
            if isinstance(kind, str):
                raise Unreadable(kind)
            if kind is TIFF and suffix in _RAW_SUFFIXES:
                raise Unreadable("camera_raw")
            return kind
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip") and suffix in (b".mov", b".mp4", b".qt"):
        raise Unreadable("video")
    if head.startswith(b"RIFF"):
        if head[8:12] == b"WEBP":
            return ("WEBP",)
        raise Unreadable("video" if head[8:12] in (b"AVI ", b"CDXA") else "not_an_image")
    # Two letters begin many a text: the reserved bytes, or the size of the header, must fit too.
    if head.startswith(b"BM") and (head[6:10] == bytes(4) or head[14:18] in _BMP_HEADER_SIZES):
        return ("BMP",)
    if len(head) > 2 and head[0:1] == b"P" and head[1] in _NETPBM and head[2] in b" \t\r\n#":
        return ("PPM",)
    if len(head) > 3 and head[0] == 10 and head[1] in (0, 2, 3, 5) and head[2] in (0, 1):
        return ("PCX",)
    if head[4:6] in (b"\x11\xaf", b"\x12\xaf"):  # FLIC animations
        raise Unreadable("unsupported")
    if suffix in (b".tga", b".icb", b".vda", b".vst"):
        return TGA
    if head[188:189] == b"G" and head[0:1] == b"G" and suffix in (b".ts", b".mts", b".m2ts"):
        raise Unreadable("video")
    raise Unreadable("not_an_image")


def has_picture_name(name: bytes) -> bool:
    """Whether a file is called what pictures are called."""
    return _suffix(name) in _PICTURE_SUFFIXES | _RAW_SUFFIXES


def _suffix(name: bytes) -> bytes:
    return name[name.rfind(b".") :].lower() if b"." in name else b""


def _iso_media(head: bytes) -> tuple[str, ...]:
    """HEIF, AVIF, raw or video: all the same container, told apart by its brands."""
    end = min(int.from_bytes(head[0:4], "big") or len(head), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    if brands[0] == b"crx ":
        raise Unreadable("camera_raw")
    # The container's own brands say nothing of the codec: that stands among the compatible ones.
    for brand in brands:
        if brand in _AV1_BRANDS:
            return AVIF
        if brand in _HEVC_BRANDS:
            return HEIF
    if any(brand in _CONTAINER_BRANDS for brand in brands):
        return HEIF
    raise Unreadable("video")
