"""Image files -> what the frozen tower and projector make of them, once per image however many questions ask."""

from typing import Any

import torch
from tqdm import tqdm

from service.images import Preparation, picture
from trainer.data.files import read

BATCH = 64


class Features:
    """Projected image tokens of shape (image tokens, hidden size), by image file; float32 on the CPU."""

    def __init__(self, by_image: dict[str, torch.Tensor]) -> None:
        self._by_image = by_image

    def __getitem__(self, image: str) -> torch.Tensor:
        return self._by_image[image]

    @property
    def tokens(self) -> int:
        """Tokens per image."""
        return len(next(iter(self._by_image.values()), ()))

    @classmethod
    def of(cls, model: Any, processor: Any, preparation: Preparation, images: list[str]) -> "Features":
        """Run `images` (each once, in the given order) through the model's tower and projector.

        Raises:
            service.errors.ServiceError: an image that does not decode; the service would refuse it too.
        """
        unique = list(dict.fromkeys(images))
        by_image: dict[str, torch.Tensor] = {}
        for start in tqdm(range(0, len(unique), BATCH), desc="image features", unit="batch"):
            batch = unique[start : start + BATCH]
            pictures = [picture(read(image), preparation).image for image in batch]
            pixels = processor(images=pictures, return_tensors="pt").pixel_values
            with torch.inference_mode():
                features = model.get_image_features(pixels.to(model.device, model.dtype)).pooler_output
            by_image.update(zip(batch, (feature.float().cpu() for feature in features), strict=True))
        return cls(by_image)
