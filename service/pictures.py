"""The images of a question, as files or URLs -> the pictures that the model sees: URLs are fetched, files decoded."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from PIL import Image

from service.errors import InvalidRequest
from service.images import ImageLimits, Preparation, picture
from service.images.fetch import Fetcher
from service.images.kinds import kind_of
from service.metrics import Metrics
from service.tracing import hop
from service.types import Link, Picture, Upload

# PNGs and JPEGs of at most so many bytes and pixels are decoded in some 50 ms.
_LIGHT_BYTES, _LIGHT_PIXELS = 65_536, 4_000_000
# Decodes and prepares the images of one question, in order. It blocks for up to seconds: call it on a worker thread.
MakePictures = Callable[[], tuple[Picture, ...]]


def light(images: tuple[Upload | Link, ...]) -> bool:
    """Whether decoding all of these images is little work, by their headers alone; False where the headers do not tell.

    Takes microseconds, so it may be called on the event loop. What is little work has threads of its own, so that it
    does not wait for large images.
    """
    return all(isinstance(image, Upload) and _light(image.data) for image in images)


def _light(data: bytes) -> bool:
    kind = kind_of(data)
    if len(data) > _LIGHT_BYTES or kind not in ("PNG", "JPEG", None):
        return False
    try:
        if kind == "PNG":  # the size stands in the first chunk; Pillow would read the others too
            size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
        elif kind == "JPEG":
            size = Image.open(io.BytesIO(data), formats=("JPEG",)).size
        else:
            return True  # refused at once
    except (OSError, SyntaxError, ValueError, IndexError):
        return False
    return size[0] * size[1] <= _LIGHT_PIXELS


@dataclass(frozen=True)
class Pictures:
    """Makes pictures for one base, within one set of limits."""

    preparation: Preparation
    limits: ImageLimits
    fetcher: Fetcher
    metrics: Metrics

    async def fetch(self, images: tuple[Upload | Link, ...]) -> MakePictures:
        """Fetch those of one question's images that are URLs; returns the function that decodes all of them.

        Raises:
            InvalidRequest: more images than a question may have.
            ServiceError: what fetching raises; what it returns raises what decoding does.
        """
        if len(images) > self.limits.count:
            raise InvalidRequest(f"{len(images)} images came: one question may have {self.limits.count}")
        uploads = [await self._fetch(image) if isinstance(image, Link) else image for image in images]
        return partial(self._decode, uploads)

    async def _fetch(self, link: Link) -> Upload:
        started = time.perf_counter()
        upload = Upload(await self.fetcher.fetch(link.url))
        self.metrics.image_seconds.labels("fetch").observe(time.perf_counter() - started)
        return upload

    def _decode(self, uploads: list[Upload]) -> tuple[Picture, ...]:
        if not uploads:
            return ()
        with hop("decode"), self.metrics.image_seconds.labels("prepare").time():
            return tuple(picture(upload.data, self.preparation, self.limits) for upload in uploads)
