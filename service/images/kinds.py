"""Tells the kind of an image file by its first bytes; file names and content types are not looked at."""

from typing import Literal

from service.errors import ImageTypeRefused

Kind = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "HEIF"]

# The kinds as errors and documentation name them.
NAMES = "PNG, JPEG, WebP, GIF, BMP, AVIF or HEIC"
_BEGINNINGS: dict[bytes, Kind] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
# Lengths that a BMP's second header may have; to begin with "BM" is not enough, as texts do.
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}


def kind_of(data: bytes) -> Kind | None:
    """The kind of image file that `data` is, or None for anything else."""
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _by_brands(data)
    return None


def known_kind(data: bytes) -> Kind:
    """The kind of image file that `data` is.

    Raises:
        ImageTypeRefused: it is none of them.
    """
    if (kind := kind_of(data)) is None:
        raise ImageTypeRefused(f"the image is not a {NAMES} file: convert it to one of these")
    return kind


def _by_brands(data: bytes) -> Kind | None:
    """AVIF or HEIF by a file's brands (ISO/IEC 14496-12): the major one, and after a version the compatible ones."""
    box = data[: min(int.from_bytes(data[:4], "big"), 256)]
    brands = {box[8:12], *(box[at : at + 4] for at in range(16, len(box), 4))}
    if brands & _AVIF:
        return "AVIF"
    return "HEIF" if brands & _HEIF else None
