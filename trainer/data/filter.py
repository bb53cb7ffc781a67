"""`data filter`: rows whose image a model could learn from; judged on the pixels the service would see."""

from PIL import Image, ImageStat
from tqdm import tqdm

from service.errors import ServiceError
from service.images import decode
from trainer.data import files
from trainer.data.config import FilterOptions
from trainer.data.rows import scan
from trainer.data.write import Report, writing


def filter_rows(options: FilterOptions) -> Report:
    """Write the rows that pass.

    Raises:
        DataError: faulty rows, or a file that cannot be read or written.
    """
    report = Report()
    judged: dict[str, str | None] = {}
    with writing(options.output, options.images, report) as writer:
        for row in tqdm(scan(options.data, options.images), desc="filter", unit="row"):
            if row.image and row.image not in judged:
                judged[row.image] = _reason(row.image, options)
            reason = judged[row.image] if row.image else None
            if reason:
                report.note(f"dropped, {reason}", row.id)
            else:
                writer.write(row)
    return report


def _reason(url: str, options: FilterOptions) -> str | None:
    try:
        image = decode(files.read(url))
    except ServiceError as error:
        return str(error)
    return judge(image, options)


def judge(image: Image.Image, options: FilterOptions) -> str | None:
    """Why an image is not worth a question, or None."""
    short, long = sorted(image.size)
    if short < options.min_side:
        return f"the shorter side is under --min-side {options.min_side}"
    if long > options.max_aspect * short:
        return f"a side is over --max-aspect {options.max_aspect:g} times the other"
    if ImageStat.Stat(image.convert("L")).stddev[0] < options.min_contrast:
        return f"blank: contrast under --min-contrast {options.min_contrast:g}"
    return None
