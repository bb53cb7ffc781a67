"""`data filter`: rows whose image a model could learn from; judged on the pixels the service would see."""

from trainer.config.data import FilterOptions
from trainer.data.curation.agreement import agreed
from trainer.data.curation.hook import load_hook
from trainer.data.image_facts import ImageFacts, facts_of_all
from trainer.data.progress import with_progress
from trainer.data.row import Row
from trainer.data.rows import source_of
from trainer.data.write import Report, writing
from trainer.errors import DataError


def filter_rows(options: FilterOptions) -> Report:
    """Write the rows that pass; the report counts the others by reason.

    Raises:
        DataError: no row passes, images are given and no row has one, or a file cannot be read or written.
        OptionError: a hook that is not there, or gives something else than None or a text.
    """
    report = Report()
    hook = load_hook(options.hook)
    images = (row.image for line in source_of(options).lines() for row in line.rows if row.image)
    judged = {image: judge(facts, options) for image, facts in facts_of_all(dict.fromkeys(images), options.index)}
    source = source_of(options)
    with writing(options.output, options.images, report) as writer:
        for line in with_progress(source.lines(), "filter"):
            for fault in line.faults:
                report.note(f"dropped, {fault.kind}", f"{line.where}: {fault.of}".removesuffix(": "))
            for row in line.rows:
                reason = (judged[row.image] if row.image else None) or _disagreement(row, options) or hook(row)
                if reason:
                    report.note(f"dropped, {reason}", row.id)
                else:
                    writer.write(row)
        if blind := source.blind():
            raise DataError([f"{options.data}: {blind}"])
        if not report.kept:
            raise DataError([f"{options.data}: no row passes", str(report)])
    return report


def _disagreement(row: Row, options: FilterOptions) -> str | None:
    if row.answers and options.agree and agreed(row.answers, options.agree) is None:
        return f"fewer of its answers are the same than --agree {options.agree:g} says"
    return None


def judge(facts: ImageFacts, options: FilterOptions) -> str | None:
    """Why the options refuse an image, in words; None: it passes.

    Raises:
        DataError: the file cannot be read, which says nothing of the image.
    """
    if not facts.sha256:
        raise DataError([str(facts.fault)])
    if facts.fault:
        return facts.fault
    short, long = sorted((facts.width, facts.height))
    limits = (
        (short < options.min_side, f"the shorter side is under --min-side {options.min_side}"),
        (long > options.max_aspect * short, f"a side is over --max-aspect {options.max_aspect:g} times the other"),
        (facts.contrast < options.min_contrast, f"blank: contrast under --min-contrast {options.min_contrast:g}"),
        (
            facts.sharpness < options.min_sharpness,
            f"blurred: sharpness under --min-sharpness {options.min_sharpness:g}",
        ),
        (
            facts.brightness < options.min_brightness,
            f"dark: brightness under --min-brightness {options.min_brightness:g}",
        ),
        (
            facts.brightness > options.max_brightness,
            f"pale: brightness over --max-brightness {options.max_brightness:g}",
        ),
    )
    return next((why for refused, why in limits if refused), None)
