"""What a caller sent or pointed to -> pictures: links are fetched, files decoded on the worker threads."""

import time
from dataclasses import dataclass

from service.errors import InvalidRequest
from service.images import ImageLimits, Preparation, picture
from service.images.fetch import Fetcher
from service.metrics import Metrics
from service.tracing import hop
from service.types import Link, Picture, Upload
from service.workers import Workers


@dataclass(frozen=True)
class Pictures:
    """Makes pictures for one base, within one set of limits."""

    preparation: Preparation
    limits: ImageLimits
    fetcher: Fetcher
    workers: Workers
    metrics: Metrics

    async def make(self, images: tuple[Upload | Link, ...]) -> tuple[Picture, ...]:
        """The pictures of one question, in order.

        Raises:
            InvalidRequest: more images than a question may have.
            ServiceError: what fetching and decoding raise.
        """
        if len(images) > self.limits.count:
            raise InvalidRequest(f"{len(images)} images came: one question may have {self.limits.count}")
        if not images:
            return ()
        uploads = [await self._fetch(image) if isinstance(image, Link) else image for image in images]
        with hop("decode"), self.metrics.image_seconds.labels("prepare").time():
            return await self.workers.run(self._decode, uploads)

    async def _fetch(self, link: Link) -> Upload:
        started = time.perf_counter()
        # What a web server says of a file's type is often wrong, and no claim of the caller's.
        upload = Upload(await self.fetcher.fetch(link.url))
        self.metrics.image_seconds.labels("fetch").observe(time.perf_counter() - started)
        return upload

    def _decode(self, uploads: list[Upload]) -> tuple[Picture, ...]:
        return tuple(picture(upload.data, self.preparation, self.limits, upload.mime) for upload in uploads)
