"""The size that an AVIF's picture has by the AV1 streams in it, since the container may claim a smaller one.

Pillow tells the container's size; libavif decodes the streams at their own size, and scales the picture afterwards.
"""

from collections.abc import Iterator

from service.errors import ImageBroken

# The most boxes, items and pieces of one file: a picture of tiles has an item for each tile, some hundreds.
_PARTS = 4096
_SEQUENCE_HEADER = 1
_BROKEN = "the image is an AVIF whose parts do not fit together: the file is truncated or corrupt"


def still(data: bytes) -> bytes:
    """The AVIF file `data` with the brand of a still picture, so that of an animated one its poster is decoded."""
    return data[:8] + b"avif" + data[12:] if data[8:12] == b"avis" else data


def pixels(data: bytes) -> int:
    """Pixels of the largest frame that a stream of the AVIF file `data` may have; 0 where it has no AV1 stream.

    Raises:
        ImageBroken: its boxes, items or streams cannot be read.
    """
    try:
        return max((_frame(stream) for stream in _streams(data)), default=0)
    except (IndexError, ValueError, KeyError) as error:
        raise ImageBroken(_BROKEN) from error


class _Reader:
    """Reads unsigned integers from bytes, the highest bit first; past the end it raises IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0  # in bits

    def bits(self, count: int) -> int:
        """The integer of the next `count` bits."""
        begin, end = self.at // 8, -(-(self.at + count) // 8)
        if end > len(self._data):
            raise IndexError("past the end")
        self.at += count
        return (int.from_bytes(self._data[begin:end], "big") >> (8 * end - self.at)) & ((1 << count) - 1)

    def bytes(self, count: int) -> int:
        """The integer of the next `count` bytes."""
        return self.bits(8 * count)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box between the offsets `at` and `end`, and where its content begins and ends.

    ISO/IEC 14496-12, 4.2.
    """
    for _ in range(_PARTS):
        if at + 8 > end:
            return
        size, begin = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:
            size, begin = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        stop = at + size if size else end
        if stop < begin or stop > end:
            raise ValueError("a box that is longer than what it lies in")
        yield data[at + 4 : at + 8], begin, stop
        at = stop
    raise ValueError("too many boxes")


def _streams(data: bytes) -> Iterator[bytes]:
    """The AV1 streams of a file's items (ISO/IEC 14496-12, 8.11)."""
    for kind, begin, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            inner = [(kind, data[at:stop]) for kind, at, stop in _boxes(data, begin + 4, end)]
            wanted = {item for kind, box in inner if kind == b"iinf" for item in _av1_items(box)}
            idat = b"".join(box for kind, box in inner if kind == b"idat")
            for item, pieces in (found for kind, box in inner if kind == b"iloc" for found in _locations(box)):
                if item in wanted:
                    yield b"".join((idat if inside else data)[at : at + size] for inside, at, size in pieces)


def _av1_items(box: bytes) -> Iterator[int]:
    for kind, at, stop in _boxes(box, 6 if box[0] == 0 else 8, len(box)):
        entry = box[at:stop]
        if kind == b"infe" and entry[0] >= 2:
            width = 2 if entry[0] == 2 else 4
            if entry[6 + width : 10 + width] == b"av01":
                yield int.from_bytes(entry[4 : 4 + width], "big")


def _locations(box: bytes) -> Iterator[tuple[int, list[tuple[bool, int, int]]]]:
    """Each item, and its pieces: whether they lie in the box `idat`, where they begin, and their lengths."""
    read, version = _Reader(box[4:]), box[0]
    offset, length, base, index = (read.bits(4) for _ in range(4))
    wide = 4 if version == 2 else 2
    left = _PARTS
    for _ in range(read.bytes(wide)):
        item, method = read.bytes(wide), read.bytes(2) & 15 if version else 0
        start = (read.bytes(2), read.bytes(base))[1]
        count = read.bytes(2)
        left -= 1 + count
        if left < 0 or method > 1:
            raise ValueError("more pieces than a picture has, or places we do not know")
        pieces = []
        for _ in range(count):
            at = (read.bytes(index if version else 0), start + read.bytes(offset))[1]
            pieces.append((method == 1, at, read.bytes(length) or 1 << 62))
        yield item, pieces


def _frame(stream: bytes) -> int:
    """Pixels of the largest frame of a stream of open bitstream units (AV1 specification, 5.3)."""
    at, found = 0, 0
    for _ in range(_PARTS):
        if at >= len(stream):
            return found
        head = stream[at]
        at += 2 if head & 4 else 1
        size = len(stream) - at
        if head & 2:
            size, at = _leb128(stream, at)
        if (head >> 3) & 15 == _SEQUENCE_HEADER:
            found = max(found, _sequence(_Reader(stream[at : at + size])))
        at += size
    raise ValueError("too many units")


def _leb128(stream: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(8):
        byte = stream[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a length without an end")


def _sequence(read: _Reader) -> int:
    """Pixels of a frame by a sequence header (AV1 specification, 5.5.1)."""
    read.bits(4)  # profile, still picture
    if read.bits(1):  # reduced: a still picture and nothing else
        read.bits(5)
    else:
        _skip_timing(read)
    across, down = read.bits(4) + 1, read.bits(4) + 1
    return (read.bits(across) + 1) * (read.bits(down) + 1)


def _skip_timing(read: _Reader) -> None:
    delay = 0
    if read.bits(1):  # timing info
        read.bits(64)
        if read.bits(1):  # equal intervals: their length, as many zeros first as it has bits more
            zeros = next(count for count in range(33) if read.bits(1))
            read.bits(zeros)
        if read.bits(1):  # decoder model
            delay = read.bits(5) + 1
            read.bits(42)
    shown = read.bits(1)
    for _ in range(read.bits(5) + 1):
        read.bits(12)
        if read.bits(5) > 7:
            read.bits(1)
        if delay and read.bits(1):
            read.bits(2 * delay + 1)
        if shown and read.bits(1):
            read.bits(4)
