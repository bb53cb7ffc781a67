"""A GIF file from its first frame on, without what concerns later frames only, and without notes.

Pillow reads notes block by block, and on opening a file makes what shall cover its first frame later, of any size.
"""

from service.errors import ImageBroken, ImageTooLarge

# Blocks before the first frame: a note of 16 MB.
_BLOCKS = 65_536
_TRUNCATED = "the image is a GIF without a frame: the file is truncated or corrupt"


def first_frame(data: bytes) -> bytes:
    """The screen of the GIF `data`, what says which colour of its first frame is clear, and that frame and the rest.

    Raises:
        ImageBroken: it has no frame.
        ImageTooLarge: more stands before its first frame than an encoder writes.
    """
    screen = at = _colours_end(data)
    control = b""
    for _ in range(_BLOCKS):
        introducer = data[at : at + 1]
        if introducer == b",":
            return data if data[screen:at] == control else b"".join([data[:screen], control, memoryview(data)[at:]])
        if introducer != b"!":
            raise ImageBroken(_TRUNCATED)
        begin, at = at, _blocks_end(data, at + 2)
        if data[begin + 1 : begin + 2] == b"\xf9":
            control = _clear_colour(data[begin:at])
    raise ImageTooLarge(f"the image is a GIF with over {_BLOCKS:,} parts before its picture: save it anew")


def _colours_end(data: bytes) -> int:
    """Where the logical screen ends, its colours included (GIF89a, 18 and 19)."""
    if len(data) < 13:
        raise ImageBroken(_TRUNCATED)
    return 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)


def _clear_colour(control: bytes) -> bytes:
    """A graphic control extension that says only which colour is clear, if one is (GIF89a, 23)."""
    return control[:3] + bytes([control[3] & 1]) + control[4:] if len(control) > 3 else b""


def _blocks_end(data: bytes, at: int) -> int:
    """Where the sub-blocks that begin at `at` end: each says its length first, the last has none."""
    for _ in range(_BLOCKS):
        length = data[at : at + 1]
        if not length:
            raise ImageBroken(_TRUNCATED)
        at += 1 + length[0]
        if not length[0]:
            return at
    raise ImageTooLarge(f"the image is a GIF with over {_BLOCKS:,} parts before its picture: save it anew")
