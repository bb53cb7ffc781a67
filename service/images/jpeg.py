"""What a JPEG will cost and whether it ends, read from its markers before anything is decoded (ITU-T T.81, annex B).

A progressive JPEG may have any number of scans. Each makes the decoder go through all of the picture's blocks, though
it may be a few bytes long; and the coefficients of the whole picture are kept in memory until the last scan was read.
"""

import re
from dataclasses import dataclass

from service.errors import ImageBroken, ImageTooLarge

# The most scans: encoders write some 10 (libjpeg's default), 30 at most. And pixels times scans: some 4 s of one core.
SCANS, SCANNED_PIXELS = 64, 1_000_000_000
# The most markers of one file: 255 of a colour profile, a few hundred of Photoshop's, four to a scan. And the most
# bytes between markers, which a decoder reads one by one.
_MARKERS, _BETWEEN = 2000, 65_536
END = b"\xff\xd9"

_MARKER = re.compile(rb"\xff[\x01-\xfe]")
# In a scan's data 0xFF is followed by a zero, and eight markers belong to it.
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCAN, _EOI, _PROGRESSIVE = 0xDA, 0xD9, (0xC2, 0xC6, 0xCA, 0xCE)


@dataclass(frozen=True, slots=True)
class Course:
    """What a JPEG's markers tell: whether it has an end marker, and bytes of coefficients that a decoder keeps."""

    ended: bool
    coefficients: int


def judge(data: bytes) -> Course:
    """Read the markers of the JPEG file `data`.

    Raises:
        ImageTooLarge: it has more scans, pixels times scans, or markers than the limits above.
        ImageBroken: it has over 64 KiB of other data between its markers.
    """
    at, scans, between, pixels, samples, progressive = 2, 0, 0, 0, 0.0, False
    ended, find = False, _MARKER
    for _ in range(_MARKERS):
        found = find.search(data, at)
        if found is None:
            break
        between += found.start() - at if find is _MARKER else 0
        if between > _BETWEEN:
            raise ImageBroken("the image is a JPEG with other data between its parts: save it anew")
        marker, at = data[found.end() - 1], found.end()
        if marker == _EOI:
            ended = True
            break
        if marker in _ALONE:
            continue
        if marker in _FRAMES:
            pixels, samples = _size(data[at : at + 64])
            progressive = marker in _PROGRESSIVE
        elif marker == _SCAN:
            scans += 1
            _judge_scans(scans, pixels)
        find = _AFTER_SCAN if marker == _SCAN else _MARKER
        at += int.from_bytes(data[at : at + 2], "big")
    else:
        raise ImageTooLarge(f"the image is a JPEG of over {_MARKERS:,} parts: save it anew")
    return Course(ended, round(2 * pixels * samples) if progressive or scans > 1 else 0)


def _judge_scans(scans: int, pixels: int) -> None:
    if scans > SCANS:
        raise ImageTooLarge(f"the image is a JPEG of over {SCANS} scans: save it as a baseline JPEG")
    if scans * pixels > SCANNED_PIXELS:
        raise ImageTooLarge(
            f"the image is a JPEG of {pixels:,} pixels in {scans} scans or more: scale it down, or save it as a "
            "baseline JPEG"
        )


def _size(frame: bytes) -> tuple[int, float]:
    """A frame's pixels, and its samples for each pixel (3 without subsampling), by its header (T.81, B.2.2)."""
    height, width, components = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big"), frame[7:8]
    factors = [(byte >> 4, byte & 15) for byte in frame[9 : 8 + 3 * sum(components) : 3]]
    across, down = (max((factor[axis] for factor in factors), default=1) or 1 for axis in (0, 1))
    return width * height, sum(h * v for h, v in factors) / (across * down)
