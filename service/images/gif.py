"""A GIF file without what stands before its first frame and does not change it: comments, and how frames are disposed.

Pillow reads comments block by block, and on opening a file makes the image that is to replace its first frame later, of
whatever size the file says.
"""

from service.errors import ImageBroken, ImageTooLarge

# The most blocks before the first frame: with 255 bytes each, a comment of 16 MB.
_BLOCKS = 65_536
_TRUNCATED = "the image is a GIF without a frame: the file is truncated or corrupt"


def first_frame(data: bytes) -> bytes:
    """The GIF file `data` with only two things before its first frame: its screen, and which colour is transparent.

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
    """The offset at which the logical screen descriptor and the global colours end (GIF89a, 18 and 19)."""
    if len(data) < 13:
        raise ImageBroken(_TRUNCATED)
    return 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)


def _clear_colour(control: bytes) -> bytes:
    """A graphic control extension that has only the transparent colour, if there is one (GIF89a, 23)."""
    return control[:3] + bytes([control[3] & 1]) + control[4:] if len(control) > 3 else b""


def _blocks_end(data: bytes, at: int) -> int:
    """The offset at which the sub-blocks that begin at `at` end: each begins with its length, the last has 0."""
    for _ in range(_BLOCKS):
        length = data[at : at + 1]
        if not length:
            raise ImageBroken(_TRUNCATED)
        at += 1 + length[0]
        if not length[0]:
            return at
    raise ImageTooLarge(f"the image is a GIF with over {_BLOCKS:,} parts before its picture: save it anew")
