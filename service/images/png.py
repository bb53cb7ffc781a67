"""A PNG file without what no pixel of its still picture needs: notes, colour profiles, later frames.

Pillow unpacks notes and profiles before it comes to the pixels, and refuses the file where one is over 1 MB.
"""

import zlib
from collections.abc import Iterator

from service.errors import ImageTooLarge

# Chunks of one file: an encoder that writes its pixels in pieces of 4 KB comes to 5,000 in 20 MB.
_CHUNKS = 65_536
_NOTES, _DROPPED = (b"tEXt", b"zTXt", b"iTXt"), (b"iCCP", b"acTL", b"fcTL", b"fdAT")
# The two notes that may tell of a rotation (ImageMagick's EXIF, and XMP), and the most bytes of one, unpacked too.
_ROTATING, _NOTE = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"), 65_536


def still(data: bytes) -> bytes:
    """The still picture of the PNG `data`; of an animated one its default image, nearly always the first frame.

    A file that has nothing to drop comes back as it is.

    Raises:
        ImageTooLarge: of more chunks than an encoder writes.
    """
    view, stays, begin = memoryview(data), [], 0
    for kind, at, end in _chunks(data):
        if kind in _DROPPED or (kind in _NOTES and not _may_rotate(kind, data[at + 8 : at + 8 + _NOTE + 1])):
            stays.append(view[begin:at])
            begin = end
    return b"".join([*stays, view[begin:]]) if stays else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, and where it begins and ends (PNG specification, 5.3)."""
    at = 8
    for _ in range(_CHUNKS):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind in (b"", b"IEND") or end > len(data):
            return
        yield kind, at, end
        at = end
    raise ImageTooLarge(f"the image is a PNG of over {_CHUNKS:,} parts: save it anew")


def _may_rotate(kind: bytes, note: bytes) -> bool:
    """Whether a note, cut after what one may have, is one that Pillow reads a rotation from, and small."""
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
