"""`data report`: one HTML page of what a set holds, to look at; rows are streamed, each picture is read once."""

import posixpath
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from service.checkpoint import locate
from service.errors import ServiceError
from service.prompt import Prompt
from trainer.config.data import ReportOptions
from trainer.data import files
from trainer.data.forms.reading import Reading
from trainer.data.gallery import Gallery, Pair
from trainer.data.image_facts import facts_of_all
from trainer.data.pages.pictures import thumbnail
from trainer.data.pages.set import Card, Set, sentence, warnings, write_page
from trainer.data.progress import with_progress
from trainer.data.row import Row
from trainer.data.rows import scan
from trainer.data.survey import Measured, Sample, Survey, survey
from trainer.disk import check_file
from trainer.errors import DataError

# The side of a picture that is shown, in pixels; the bytes of all of them; questions about each.
_SIDE, _MOST_BYTES, _SAID = 160, 6_000_000, 4


@dataclass(frozen=True, slots=True)
class _Base:
    """What is asked of the base: its prompt, the tokens of a picture, and how many a row may have."""

    prompt: Prompt
    image_tokens: int
    context: int

    @classmethod
    def of(cls, path: Path) -> "_Base":
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        side = config.vision_config.image_size // config.vision_config.patch_size
        whole = config.vision_feature_select_strategy == "full"
        return cls(Prompt(path), side**2 + whole, int(config.text_config.max_position_embeddings))

    def measured(self, row: Row) -> Measured:
        """Tokens of a row as it is trained on, and of each of its answers with the token that ends it."""
        ids, answers = self.prompt.encode_conversation(row.exchanges, int(row.image is not None))
        whole = len(ids) + 1 + (self.image_tokens - 1 if row.image is not None else 0)
        return whole, [len(places) + 1 for places in answers]


def report(options: ReportOptions) -> str:
    """Write the page; returns the main counts and the warnings in words.

    Raises:
        DataError: faulty rows, or a file that cannot be read or written.
        OptionError: --output cannot be written.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    check_file("--output", options.output)
    base = _Base.of(locate(options.model))
    sample = Sample(options.pictures, options.seed)
    found = _surveyed(options.data, options, base, sample)
    held = _surveyed(options.held_out, options, base, Sample(0, 0)) if options.held_out else None
    gallery = Gallery(facts_of_all(found.images, options.index))
    pairs: list[Pair] = []
    if held:
        others = Gallery(facts_of_all(held.images, options.index), trained=gallery)
        pairs = others.pairs
        gallery.faults.update(others.faults)
    cards, unshown = _cards(sample, options.images)
    shown = Set(
        data=options.data,
        held_out=options.held_out,
        images=options.images,
        model=options.model,
        context=base.context,
        image_tokens=base.image_tokens,
        found=found,
        held=held,
        gallery=gallery,
        pairs=pairs,
        cards=cards,
        unshown=unshown,
    )
    write_page(options.output, shown)
    return "\n".join([sentence(shown), *map(str, warnings(shown)), f"wrote {options.output}"])


def _surveyed(data: str, options: ReportOptions, base: _Base, sample: Sample) -> Survey:
    rows = scan(data, options.images, Reading.of(options))
    return survey(with_progress(rows, posixpath.basename(data)), base.measured, base.context, sample)


def _cards(sample: Sample, folder: str) -> tuple[list[Card], int]:
    """Cards of the pictures that were drawn, as far as the page's bytes go, and how many of them cannot be shown."""
    cards: list[Card] = []
    size, unshown = 0, 0
    for image, rows in sample:
        try:
            picture = thumbnail(image, _SIDE)
        except (DataError, ServiceError):
            unshown += 1
            continue
        size += len(picture.uri)
        if size > _MOST_BYTES:
            break
        said = [exchange for row in rows for exchange in row.exchanges][:_SAID]
        cards.append(Card(len(cards) + 1, picture, said, files.relative(image, folder), rows[0].category))
    return cards, unshown
