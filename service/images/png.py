"""A PNG file without the chunks that its still picture does not need: texts, colour profiles, later frames.

Pillow decompresses texts and profiles before it reads the pixels, and refuses a file where one has over 1 MB.
"""

import zlib
from collections.abc import Iterator

from service.errors import ImageTooLarge

# The most chunks of one file: an encoder that writes its pixels in pieces of 4 KB comes to 5,000 in 20 MB.
_CHUNKS = 65_536
_NOTES, _DROPPED = (b"tEXt", b"zTXt", b"iTXt"), (b"iCCP", b"acTL", b"fcTL", b"fdAT")
# How the two texts begin that may have an orientation (ImageMagick's EXIF, and XMP), and the most bytes that one may
# have, packed and unpacked.
_ROTATING, _NOTE = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"), 65_536


def still(data: bytes) -> bytes:
    """The PNG file `data` with its still picture alone; of an animated one that is its default image.

    A file without such chunks is returned as it is.

    Raises:
        ImageTooLarge: it has over 65,536 chunks.
    """
    view, stays, begin = memoryview(data), [], 0
    for kind, at, end in _chunks(data):
        if kind in _DROPPED or (kind in _NOTES and not _may_rotate(kind, data[at + 8 : at + 8 + _NOTE + 1])):
            stays.append(view[begin:at])
            begin = end
    return b"".join([*stays, view[begin:]]) if stays else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk but the last, and the offsets where it begins and ends (PNG specification, 5.3)."""
    at = 8
    for _ in range(_CHUNKS):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind in (b"", b"IEND") or end > len(data):
            return
        yield kind, at, end
        at = end
    raise ImageTooLarge(f"the image is a PNG of over {_CHUNKS:,} parts: save it anew")


def _may_rotate(kind: bytes, note: bytes) -> bool:
    """Whether a text is one that Pillow reads an orientation from, and has at most _NOTE bytes, unpacked too.

    `note` is the chunk's content, cut after _NOTE + 1 bytes.
    """
    if len(note) > _NOTE or not note.startswith(_ROTATING):
        return False
    text = note.partition(b"\0")[2]
    if kind == b"iTXt":  # a flag, the method, a language, a translated keyword, the text
        kind, text = (b"zTXt" if text[:1] == b"\1" else b"tEXt"), text[2:].split(b"\0", 2)[-1]
    else:  # the method, the text
        text = text[1:]
    unpacking = zlib.decompressobj()
    try:
        return kind == b"tEXt" or (bool(unpacking.decompress(text, _NOTE)) and not unpacking.unconsumed_tail)
    except zlib.error:
        return False
