"""The most memory that decoding one image takes, by kind of file; service/images/memory.py is made from it.

python -m loadtest.images.image_memory [side]        # of square images, 4000: 16 megapixels

Each image is decoded in a process of its own, whose peak of resident memory is read before and after.
"""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from service.images import Preparation, picture
from service.images.decode import DEFAULT_LIMITS, know_heif

_FAST = {"preset": "ultrafast"}


def _file(mode: str, kind: str, **options: object) -> Callable[[int], bytes]:
    def make(side: int) -> bytes:
        grey = Image.effect_noise((512, 512), 60).resize((side, side))
        image = grey.convert("I;16") if mode == "I;16" else grey.convert("RGB").convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(grey)
        if mode == "P":
            image = image.quantize(200)
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return make


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _deep_heic(side: int) -> bytes:
    import pillow_heif

    grey = Image.effect_noise((512, 512), 60).resize((side, side)).convert("I;16")
    pillow_heif.options.SAVE_HDR_TO_12_BIT = True
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (side, side), grey.tobytes() * 3).save(buffer, quality=20, enc_params=_FAST)
    return buffer.getvalue()


FILES = {
    "PNG, grey": _file("L", "PNG", compress_level=1),
    "PNG, 16-bit grey": _file("I;16", "PNG", compress_level=1),
    "PNG, palette": _file("P", "PNG", compress_level=1),
    "PNG, colour": _file("RGB", "PNG", compress_level=1),
    "PNG, colour, turned": _file("RGB", "PNG", compress_level=1, exif=_turned()),
    "PNG, clear": _file("RGBA", "PNG", compress_level=1),
    "PNG, clear grey, turned": _file("LA", "PNG", compress_level=1, exif=_turned()),
    "JPEG": _file("RGB", "JPEG", quality=80),
    "JPEG, progressive": _file("RGB", "JPEG", quality=80, progressive=True, subsampling=0),
    "JPEG, progressive CMYK": _file("CMYK", "JPEG", quality=80, progressive=True),
    "WebP": _file("RGB", "WEBP", method=0),
    "WebP, clear": _file("RGBA", "WEBP", method=0),
    "WebP, lossless": _file("RGBA", "WEBP", method=0, lossless=True, quality=0),
    "GIF": _file("P", "GIF"),
    "BMP": _file("RGB", "BMP"),
    "AVIF": _file("RGB", "AVIF", speed=10),
    "AVIF, 4:4:4": _file("RGB", "AVIF", speed=10, subsampling="4:4:4"),
    "AVIF, clear": _file("RGBA", "AVIF", speed=10, subsampling="4:4:4"),
    "HEIC": _file("RGB", "HEIF", quality=30, enc_params=_FAST),
    "HEIC, 12 bits": _deep_heic,
    "HEIC, clear": _file("RGBA", "HEIF", quality=30, chroma="444", enc_params=_FAST),
}


def _reset_peak() -> int:
    """Reset the peak of this process's resident memory, which begins as its parent's; returns the bytes in use now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _child(name: str) -> None:
    """Decode the image on stdin, and print the bytes of memory and the CPU seconds that it took."""
    if name.startswith("HEIC"):
        know_heif()
    preparation, data = Preparation(336, (123, 117, 104)), sys.stdin.buffer.read()
    picture(FILES[name](64), preparation)  # so that what a decoder does only once does not count
    before, began = _reset_peak(), time.process_time()
    picture(data, preparation, DEFAULT_LIMITS)
    print(_peak() - before, time.process_time() - began)


def measure(name: str, side: int) -> tuple[int, float]:
    """Bytes of memory and CPU seconds that decoding the image `name` of FILES takes, at `side` x `side` pixels."""
    command = [sys.executable, "-m", "loadtest.images.image_memory", "--child", name]
    told = subprocess.run(command, input=FILES[name](side), stdout=subprocess.PIPE, check=True).stdout.split()
    return int(told[0]), float(told[1])


def main(side: int) -> None:
    """Print a line for each kind of file."""
    print(f"images of {side}x{side}; bytes for each pixel, and CPU seconds")
    for name in FILES:
        memory, seconds = measure(name, side)
        print(f"{name:24} {memory / side**2:6.1f} {seconds:6.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2])
    else:
        know_heif()
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
