"""The decoder against hostile bytes by the hundred thousand: a picture or a typed error, each at little cost.

`make test-fuzz` runs it; `--inputs 3000` makes it short.
"""

import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable

import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ServiceError
from service.images import ImageLimits, decode
from tests.conftest import png
from tests.test_images import BEGINNINGS, animated, deep, encode

pytestmark = pytest.mark.slow

LIMITS = ImageLimits(pixels=250_000)
SIDE = 32
OUTCOMES = {"picture", "400 image_broken", "413 image_too_large", "415 image_type_refused", "422 image_shape_refused"}


def seeds() -> list[bytes]:
    """Small real files of every kind a decoder has a branch for."""
    noise = Image.effect_noise((40, 30), 90)
    colour = Image.merge("RGB", [noise, noise.rotate(90), noise.rotate(180)])
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    more = {"exif": exif, "icc_profile": bytes(200)}
    palette = colour.quantize(7)
    files = [png(size=(40, 30), file_format=kind) for kind in ("PNG", "JPEG", "WEBP")]
    files += [encode(colour, "PNG", **more), encode(palette, transparency=3), encode(palette, bits=4)]
    files += [encode(deep(noise)), encode(noise.convert("1")), encode(noise)]
    files += [encode(colour.convert("RGBA")), encode(noise.convert("LA")), animated("PNG")]
    files += [encode(colour, "JPEG", progressive=True, **more), encode(colour.resize((400, 300)), "JPEG", **more)]
    files += [encode(noise, "JPEG"), encode(colour.convert("CMYK"), "JPEG"), encode(colour, "JPEG", subsampling=2)]
    files += [encode(colour, "MPO", save_all=True, append_images=[colour], exif=exif)]
    files += [encode(colour, "WEBP", lossless=True, **more), encode(colour.convert("RGBA"), "WEBP"), animated("WEBP")]
    files += [encode(palette, "GIF"), encode(palette, "GIF", transparency=3, interlace=1), animated("GIF")]
    files += [encode(palette, "GIF", comment=b"said" * 100), encode(noise, "GIF")]
    files += [encode(image, "BMP") for image in (colour, palette, noise, noise.convert("1"), colour.convert("RGBA"))]
    files += [run_lengths()]
    more = {"exif": exif.tobytes(), "icc_profile": bytes(200)}
    files += [encode(colour, "AVIF", **more), encode(colour.convert("RGBA"), "AVIF", subsampling="4:4:4")]
    files += [encode(noise, "AVIF"), animated("AVIF")]
    files += [encode(colour, "HEIF", **more), encode(colour.convert("RGBA"), "HEIF"), encode(noise, "HEIF")]
    return files


def run_lengths() -> bytes:
    """A BMP whose pixels are runs, single ones, a step and an end, which Pillow reads and does not write."""
    plain = bytearray(encode(Image.effect_noise((16, 16), 90).quantize(7), "BMP"))
    plain[30:34] = struct.pack("<I", 1)
    begin = struct.unpack("<I", plain[10:14])[0]
    runs = b"".join(bytes([10, row % 7, 0, 3, 1, 2, 3, 0, 3, 4, 0, 0]) for row in range(14))
    runs += bytes([0, 2, 3, 1, 13, 1, 0, 1])
    return bytes(plain[:begin]) + runs


pillow_heif.register_heif_opener()
SEEDS = seeds()
SIZES = st.sampled_from([0, 1, 2, 499, 500, 501, 65_535, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
KINDS = [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL"]
BOXES = [b"meta", b"hdlr", b"pitm", b"iloc", b"iinf", b"infe", b"iprp", b"ipco", b"ispe", b"av1C", b"hvcC", b"pixi"]
BOXES += [b"ipma", b"iref", b"auxC", b"irot", b"mdat", b"moov", b"trak", b"stsd"]
KINDS += [b"fdAT", b"gAMA", b"cHRM", b"pHYs", b"sRGB"]


def place(draw: st.DrawFn, data: bytes) -> int:
    """Somewhere after the magic bytes, without which no decoder is asked."""
    return draw(st.integers(8, max(8, len(data))))


def cut(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: place(draw, data)]


def flip(draw: st.DrawFn, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 12))):
        at = place(draw, data)
        changed[at : at + 1] = bytes([draw(st.integers(0, 255))])
    return bytes(changed)


def splice(draw: st.DrawFn, data: bytes) -> bytes:
    other = draw(st.sampled_from(SEEDS))
    start, end = sorted(draw(st.tuples(st.integers(0, len(other)), st.integers(0, len(other)))))
    at, skip = place(draw, data), draw(st.integers(0, 64))
    return data[:at] + other[start:end] + data[at + skip :]


def number(draw: st.DrawFn, data: bytes) -> bytes:
    """Any aligned or unaligned field overwritten with an awkward number, in either order of bytes."""
    at, form = place(draw, data), draw(st.sampled_from([">I", "<I", ">H", "<H"]))
    value = struct.pack(form, draw(SIZES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    return data[:at] + value + data[at + len(value) :]


def chunk(draw: st.DrawFn, data: bytes) -> bytes:
    """A PNG chunk or RIFF chunk, its checksum right, put where another begins or anywhere."""
    kind, body = draw(st.sampled_from(KINDS)), draw(st.binary(max_size=40))
    if draw(st.booleans()):
        body = body[:8] + zlib.compress(bytes(draw(st.sampled_from([10, 10_000, 3_000_000]))))
    made = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    if data.startswith(b"RIFF"):
        made = draw(st.sampled_from([b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP", b"VP8 ", b"VP8L"]))
        made += struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    places = [33, 12, len(data) - 12, *(data.find(kind) - 4 for kind in KINDS if kind in data)]
    at = draw(st.sampled_from(places)) if draw(st.booleans()) else place(draw, data)
    return data[:at] + made + data[at:]


def segment(draw: st.DrawFn, data: bytes) -> bytes:
    """A JPEG segment after the first marker."""
    body = draw(st.sampled_from([b"", b"Exif\0\0", b"JFIF\0", b"ICC_PROFILE\0\1\1", b"MPF\0", b"Adobe"]))
    body += draw(st.binary(max_size=60))
    marker = draw(st.sampled_from([0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE]))
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]


def extension(draw: st.DrawFn, data: bytes) -> bytes:
    """A GIF extension, whole or without its end, before the first frame or anywhere."""
    blocks = b"".join(bytes([size]) + bytes(size) for size in draw(st.lists(st.sampled_from([1, 4, 255]), max_size=40)))
    made = b"!" + draw(st.sampled_from([b"\xf9", b"\xfe", b"\xff", b"\x01", b""])) + blocks
    made += draw(st.sampled_from([b"", b"\0"]))
    at = data.find(b",") if draw(st.booleans()) and b"," in data else place(draw, data)
    return data[:at] + made + data[at:]


def box(draw: st.DrawFn, data: bytes) -> bytes:
    """A box of an AVIF or HEIC with another length, kind or content."""
    kinds = [kind for kind in BOXES if kind in data]
    if not kinds:
        return number(draw, data)
    at = data.find(draw(st.sampled_from(kinds)))
    if draw(st.booleans()):
        return data[: at - 4] + struct.pack(">I", draw(SIZES) & 0xFFFFFFFF) + data[at:]
    inner = at + 4 + draw(st.integers(0, 24))
    return data[:inner] + draw(st.binary(min_size=1, max_size=8)) + data[inner + draw(st.integers(0, 8)) :]


def header(draw: st.DrawFn, data: bytes) -> bytes:
    """A PNG's size, depth and colour type set at will under a right checksum."""
    if not data.startswith(b"\x89PNG"):
        return number(draw, data)
    depth, colour = draw(st.sampled_from([0, 1, 2, 4, 8, 16, 255])), draw(st.sampled_from([0, 1, 2, 3, 4, 6, 255]))
    fields = struct.pack(">IIBBBBB", draw(SIZES), draw(SIZES), depth, colour, 0, 0, draw(st.integers(0, 2)))
    return data[:16] + fields + struct.pack(">I", zlib.crc32(b"IHDR" + fields)) + data[33:]


MUTATIONS: list[Callable[[st.DrawFn, bytes], bytes]] = [
    cut,
    flip,
    splice,
    number,
    chunk,
    segment,
    header,
    extension,
    box,
]


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A real file changed one to four times, or random bytes after a true beginning."""
    if draw(st.integers(0, 9)) == 0:
        magic = draw(st.sampled_from([b"", b"RIFF", *BEGINNINGS]))
        return magic + draw(st.binary(max_size=400))
    data = draw(st.sampled_from(SEEDS))
    for mutate in draw(st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=4)):
        data = mutate(draw, data)
    return data


def outcome(data: bytes, side: int | None) -> str:
    """`picture`, or the typed error; anything else raises."""
    try:
        image = decode(data, LIMITS, side=side)
    except ServiceError as error:
        return f"{error.status} {error.code}"
    assert image.mode == "RGB"
    assert image.width * image.height <= LIMITS.pixels
    return "picture"


# Pillow also warns of what it repairs.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.timeout(0)
def test_any_bytes_are_a_picture_or_a_typed_error(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs: int = pytestconfig.getoption("inputs")
    outcomes: Counter[str] = Counter()
    slowest = 0.0

    # No example database: every run is its own.
    @settings(max_examples=inputs, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(hostile(), st.sampled_from([None, SIDE]))
    def run(data: bytes, side: int | None) -> None:
        nonlocal slowest
        began = time.thread_time()
        outcomes[outcome(data, side)] += 1
        slowest = max(slowest, time.thread_time() - began)

    run()
    with capsys.disabled():
        print(f"\n{outcomes.total():,} inputs: {dict(outcomes)}; the slowest took {1000 * slowest:.0f} ms of CPU")
    assert outcomes.total() >= inputs
    assert outcomes.keys() <= OUTCOMES
    assert outcomes["picture"] > inputs / 100
    assert len(outcomes) >= 4
    assert slowest < 2.0
