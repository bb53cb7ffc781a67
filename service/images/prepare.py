"""An RGB image -> a square picture of the size that the base model sees, padded with the mean colour.

transformers' LLaVA processor scales the shorter side and crops the centre, which cuts wide charts; LLaVA-1.5 itself
pads (`image_aspect_ratio: pad` in its configuration), and so does this. The processor then has nothing to resize or
crop, and only normalises.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from service.images.decode import DEFAULT_LIMITS, ImageLimits, decode
from service.types import Picture


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a base's pictures are prepared: their side in pixels, the padding's RGB colour (0 to 255), and the method."""

    size: int
    colour: tuple[int, int, int]
    # The scaled decode of large JPEGs (decode.py) was added under the same name: it changes no bit of a PNG, a WebP, or
    # a JPEG under four times `size`, and no adapter had been published that was trained on anything else.
    method: str = "pad-bicubic-1"

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "Preparation":
        """Read the side and the mean colour from a llava-hf checkpoint's processor files.

        Raises:
            FileNotFoundError: it has none.
        """
        config = _image_processor_config(checkpoint)
        crop = config.get("crop_size") or config["size"]
        side = crop if isinstance(crop, int) else crop.get("height") or crop["shortest_edge"]
        red, green, blue = (round(channel * 255) for channel in config["image_mean"])
        return cls(side, (red, green, blue))

    def apply(self, image: Image.Image) -> Image.Image:
        """A copy of `image`, scaled (bicubic) to fit a square of `size` pixels and centred in it on the padding."""
        scale = self.size / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        # A copy in any case: an image that was opened from a file keeps that file's texts and profiles.
        same = image.size == (width, height)
        image = image.copy() if same else image.resize((width, height), Image.Resampling.BICUBIC)
        if width == height:
            return image
        square = Image.new("RGB", (self.size, self.size), self.colour)
        square.paste(image, ((self.size - width) // 2, (self.size - height) // 2))
        return square


def picture(data: bytes, preparation: Preparation, limits: ImageLimits = DEFAULT_LIMITS) -> Picture:
    """Decode an image file's bytes and prepare it; the digest is SHA-256 over the preparation and the pixels.

    Raises: what `decode` raises.
    """
    image = preparation.apply(decode(data, limits, side=preparation.size))
    digest = hashlib.sha256(f"{preparation}".encode() + image.tobytes()).hexdigest()
    return Picture(image, digest)


def _image_processor_config(checkpoint: Path) -> dict[str, Any]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (checkpoint / name).is_file():
            config: dict[str, Any] = json.loads((checkpoint / name).read_text())
            return dict(config.get("image_processor", config))
    raise FileNotFoundError(f"{checkpoint} has neither preprocessor_config.json nor processor_config.json")
