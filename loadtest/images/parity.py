"""`make parity`: what the scaled decode of a 12-megapixel JPEG changes in greedy answers of the running service.

Each JPEG is asked about as it is, and as a PNG of the picture that a full decode of it prepares, which is not scaled
again. As a control, the differences between the two are shuffled over the picture's pixels: so it shows what noise of
the same size changes.
Half the set are crops of scikit-learn's two photographs, half are easy-VQA's test pictures, all enlarged and grainy.
Prints a JSON line for each half.
"""

import asyncio
import io
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict
from sklearn.datasets import load_sample_images
from tqdm import tqdm

from loadtest.process import serving
from service.images import Preparation, decode

_SIZE, _CROP = (4032, 3024), (320, 240)
_GRAIN = 6.0  # standard deviation of the noise, of 256 levels, as a camera's in medium light
ASKS = (
    "what color is the shape?", "what shape is in the image?", "is there a circle?", "is there no red shape?",
    "what is in the picture?",
)  # fmt: skip


class Parity(BaseSettings):
    """Ask about large JPEGs, decoded at a part of their size, and about the same decoded in full."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.images.parity"
    )

    model: str = Field("models/tiny-llava-int4", description="checkpoint to serve")
    adapters: list[str] = Field(["", "shapes"], description="who is asked; an empty name is the base")
    images: int = Field(100, gt=0, description="JPEGs of each half")
    data: Path = Field(Path("build/data/shapes/images"), description="where test-NUMBER.png lie")
    seed: int = Field(0, description="of crops and grain")
    port: int = Field(8197, description="port of the service started")


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status."""
    options = CliApp.run(Parity, cli_args=arguments)
    preparation = Preparation.of_checkpoint(Path(options.model))
    with serving("service", options.port, "--model", options.model, "--log-level", "warning") as url:
        for name, pictures in (("photographs", _photographs(options)), ("drawn", _drawn(options))):
            ways = tqdm((_ways(image, preparation) for image in pictures), desc=name, total=options.images)
            print(json.dumps({"bench": "parity", "case": name, **asyncio.run(_compare(url, options, ways))}))
    return 0


def _photographs(options: Parity) -> Iterator[Image.Image]:
    rng = np.random.default_rng(options.seed)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(options.images):
        photograph = photographs[number % len(photographs)]
        left, top = (int(rng.integers(side - crop)) for side, crop in zip(photograph.size, _CROP, strict=True))
        yield _enlarged(photograph.crop((left, top, left + _CROP[0], top + _CROP[1])), rng)


def _drawn(options: Parity) -> Iterator[Image.Image]:
    rng = np.random.default_rng(options.seed)
    for number in range(options.images):
        with Image.open(options.data / f"test-{number}.png") as image:
            yield _enlarged(image.convert("RGB"), rng)


def _enlarged(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image scaled to _SIZE, with independent noise on each pixel."""
    pixels = np.asarray(image.resize(_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * _GRAIN
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))


def _ways(image: Image.Image, preparation: Preparation) -> tuple[bytes, bytes, bytes]:
    """Three files: the JPEG; the picture of its full decode; and that with the scaled decode's differences shuffled."""
    jpeg = _file(image, "JPEG", quality=90)
    full = preparation.apply(decode(jpeg))
    scaled = preparation.apply(decode(jpeg, side=preparation.size))
    differences = np.asarray(scaled, dtype=np.int16) - np.asarray(full, dtype=np.int16)
    shuffled = np.random.default_rng(0).permutation(differences.reshape(-1)).reshape(differences.shape)
    noisy = (np.asarray(full, dtype=np.int16) + shuffled).clip(0, 255).astype(np.uint8)
    return jpeg, _file(full, "PNG"), _file(Image.fromarray(noisy), "PNG")


def _file(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


async def _compare(url: str, options: Parity, ways: Iterable[tuple[bytes, ...]]) -> dict[str, object]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        asked = [
            await asyncio.gather(*(_answer(client, data, ask, who) for data in way))
            for way in ways
            for ask in ASKS
            for who in options.adapters
        ]
    equal, control = (sum(answers[other] == answers[1] for answers in asked) for other in (0, 2))
    return {
        "asked": len(asked),
        "equal": equal,
        "percent": round(100 * equal / len(asked), 2),
        "control_percent": round(100 * control / len(asked), 2),
        "different_answers": len({full for _, full, _ in asked}),
    }


async def _answer(client: httpx.AsyncClient, image: bytes, question: str, adapter: str) -> str:
    data = {"question": question, "max_tokens": "16", **({"adapter": adapter} if adapter else {})}
    response = await client.post("/v1/vqa", data=data, files={"image": image})
    return str(response.raise_for_status().json()["answer"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
