"""What a caller sent or pointed to -> pictures: links are fetched, files decoded."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from service.errors import InvalidRequest
from service.images import ImageLimits, Preparation, picture
from service.images.fetch import Fetcher
from service.metrics import Metrics
from service.tracing import hop
from service.types import Link, Picture, Upload

# Makes the pictures of one question, in order. It blocks: for a worker, together with what else the question needs.
Look = Callable[[], tuple[Picture, ...]]


@dataclass(frozen=True)
class Pictures:
    """Makes pictures for one base, within one set of limits."""

    preparation: Preparation
    limits: ImageLimits
    fetcher: Fetcher
    metrics: Metrics

    async def fetch(self, images: tuple[Upload | Link, ...]) -> Look:
        """Have the images of one question here.

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
