"""How long one thread takes from a JPEG's bytes to the model's picture, with the scaled decode and without.

python -m loadtest.images.decode [side]        # the base's input side, 336 for LLaVA-1.5
"""

import io
import statistics
import sys
import time
from collections.abc import Callable

from PIL import Image

from service.images import Preparation, decode, picture

SIZES = ((640, 480), (1920, 1080), (4032, 3024))
ROUNDS = 15


def photo(width: int, height: int) -> bytes:
    """A JPEG with some noise, so that it has about as many bytes for a pixel as a photograph."""
    smooth = Image.radial_gradient("L").resize((width, height), Image.Resampling.BICUBIC)
    noise = Image.effect_noise((width // 2, height // 2), 30).resize((width, height))
    image = Image.merge("RGB", (smooth, Image.blend(smooth, noise, 0.3), noise))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def milliseconds(work: Callable[[], object]) -> float:
    """The median time of ROUNDS runs of `work` in milliseconds, after one that does not count."""
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:]) * 1000


def main(side: int) -> None:
    """Print a line per size."""
    preparation = Preparation(side, (123, 117, 104))
    print(f"JPEG to a {side} px picture, median of {ROUNDS}, one thread, ms")
    print("size         bytes      decode: full  scaled    bytes to picture: full  scaled")
    for size in SIZES:
        data = photo(*size)
        full, scaled, picture_full, picture_scaled = (
            milliseconds(work)
            for work in (
                lambda data=data: decode(data),
                lambda data=data: decode(data, side=side),
                lambda data=data: preparation.apply(decode(data)),
                lambda data=data: picture(data, preparation),
            )
        )
        name = "{}x{}".format(*size)
        print(f"{name:10} {len(data):9,} {full:18.1f} {scaled:7.1f} {picture_full:25.1f} {picture_scaled:7.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 336)
