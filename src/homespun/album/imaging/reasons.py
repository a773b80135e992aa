"""Why a file is not in the album, in words for people: a code -> a sentence in English and in Chinese.

The codes are stored in the library and shown by the command line and the web; each sentence says what can be done.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence in each language.

    `transient` reasons may pass without the file changing: it is tried again. `photo` is False of files that are no
    photos and don't say that they are; they are listed apart, so that a damaged photo is seen among them.
    """

    english: str
    chinese: str
    transient: bool = False
    photo: bool = True


REASONS: dict[str, Reason] = {
    "empty": Reason(
        "The file is empty; if another copy exists, put that one here instead.",
        "文件是空的；如果别处还有副本，请换上那一份。",
    ),
    "not_an_image": Reason(
        "The file has a picture's name, but there is no picture in it.",
        "文件名是图片的名字，但里面没有图片。",
    ),
    "other_kind": Reason(
        "This is no picture but a document, music or another kind of file; the album leaves it alone.",
        "这不是图片，而是文档、音乐或其他类型的文件；相册不会理会它。",
        photo=False,
    ),
    "video": Reason(
        "This is a video; the album shows photos only.",
        "这是视频；相册只显示照片。",
        photo=False,
    ),
    "camera_raw": Reason(
        "This is a camera's raw file; export it as JPEG or HEIC to see it in the album.",
        "这是相机的 RAW 原始文件；请导出为 JPEG 或 HEIC 后再放入相册。",
    ),
    "unsupported": Reason(
        "The album can't show this kind of picture; save it as JPEG or PNG to see it here.",
        "相册无法显示这种格式的图片；请另存为 JPEG 或 PNG。",
    ),
    "damaged": Reason(
        "The picture is damaged and can't be shown; if another copy exists, put that one here instead.",
        "图片已损坏，无法显示；如果别处还有副本，请换上那一份。",
    ),
    "truncated": Reason(
        "Most of the picture is missing, as after a copy that was broken off; copy it from its source again.",
        "图片的大部分内容缺失，可能是复制中断造成的；请从来源重新复制。",
    ),
    "too_large": Reason(
        "The picture has more pixels than this device can hold in memory; save a smaller version to see it here.",
        "图片的像素太多，超出了本机内存所能处理的范围；请另存一份较小的图片。",
    ),
    "file_too_large": Reason(
        "The file is larger than any photo that the album reads; save a smaller version to see it here.",
        "文件太大，超出了相册读取照片的上限；请另存一份较小的图片。",
    ),
    "timeout": Reason(
        "Reading the picture took too long, so it was left out; the file may be damaged or the drive very slow.",
        "读取这张图片用时过长，已跳过；文件可能已损坏，或硬盘速度太慢。",
    ),
    "crashed": Reason(
        "The picture made its decoder fail; it is damaged, or made to do harm. Nothing else was affected.",
        "解码这张图片时程序出错；它可能已损坏或带有恶意内容。其他照片不受影响。",
    ),
    "permission": Reason(
        "The album may not open this file; allow reading in its permissions.",
        "相册没有权限打开这个文件；请在文件权限中允许读取。",
        transient=True,
    ),
    "folder_permission": Reason(
        "The album may not open this folder; allow reading in its permissions.",
        "相册没有权限打开这个文件夹；请在文件夹权限中允许读取。",
        transient=True,
    ),
    "missing": Reason(
        "The file was gone when the album came to read it.",
        "相册读取时，文件已不存在。",
        transient=True,
    ),
    "broken_link": Reason(
        "This is a link to something that does not exist any more.",
        "这是一个链接，但它指向的内容已不存在。",
        transient=True,
    ),
    "link_circle": Reason(
        "This link leads back to a folder that it lies in, or round in a circle; it was not followed.",
        "这个链接指回它所在的文件夹，或形成循环；相册没有跟随它。",
    ),
    "not_a_file": Reason(
        "This is a device or a pipe, not a file; it was not opened.",
        "这是设备或管道，不是普通文件；相册没有打开它。",
    ),
    "changed_while_read": Reason(
        "The file kept changing while it was read, as during a copy; it will be read again next time.",
        "读取时文件仍在变化（例如正在复制）；下次会重新读取。",
        transient=True,
    ),
    "read_error": Reason(
        "The drive or the network gave an error while the file was read; check the drive and its cable.",
        "读取文件时硬盘或网络出错；请检查硬盘和连接线。",
        transient=True,
    ),
    "name_too_long": Reason(
        "The folders are nested too deeply to be opened; move this folder up.",
        "文件夹嵌套过深，无法打开；请把它移到上层。",
    ),
}


NOT_PHOTOS = tuple(sorted(code for code, reason in REASONS.items() if not reason.photo))
"""The codes of files that are no photos and don't say that they are."""


def explain(code: str, language: str = "en") -> str:
    """The sentence for a code in "en" or "zh"; a code of a newer version is shown as it is."""
    reason = REASONS.get(code)
    if reason is None:
        return code
    return reason.chinese if language.lower().startswith("zh") else reason.english
