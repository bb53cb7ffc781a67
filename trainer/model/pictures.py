"""Image files of rows -> the pictures that the model sees, as the service prepares them."""

from collections.abc import Iterable

from PIL import Image

from service.errors import ServiceError
from service.images import Preparation, picture
from trainer.data.row import Row
from trainer.errors import DataError


def image_places(rows: Iterable[Row]) -> dict[str, str]:
    """Each image of `rows`, in order, with the place or id of the row that names it first."""
    places: dict[str, str] = {}
    for row in rows:
        if row.image:
            places.setdefault(row.image, row.place or row.id)
    return places


def prepared(data: bytes, place: str, image: str, preparation: Preparation) -> Image.Image:
    """The picture that the model sees of an image file; `place` is where its row was read.

    Raises:
        DataError: it is not an image that the service would take; the message names the place and the file.
    """
    try:
        return picture(data, preparation).image
    except ServiceError as error:
        raise DataError([f"{place}: {image}: {error}"]) from error
