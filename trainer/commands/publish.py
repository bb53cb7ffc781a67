"""`trainer publish`: an adapter made elsewhere -> converted, asked against its base, a version in the store."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageDraw

from service.adapters.manifest import Manifest, Score
from service.adapters.modules import CONFIG, language_model_linears
from service.checkpoint import locate
from service.types import Adapter
from trainer.adapter.convert import Converted, convert
from trainer.adapter.local import Lens
from trainer.adapter.version import now, publish, trainer_version
from trainer.config.commands import PublishOptions
from trainer.data.forms.reading import Reading
from trainer.data.rows import Row, asked, read_rows
from trainer.disk import check_file, check_folder
from trainer.errors import OptionError
from trainer.evaluation.comparison import Trial, compare
from trainer.evaluation.gate import check_gain
from trainer.evaluation.probes import choose_probes
from trainer.evaluation.report import write_report
from trainer.evaluation.result import Source
from trainer.model.checkpoint import Checkpoint, has_bfloat16
from trainer.model.features import States
from trainer.training.run import is_run, learnt

log = logging.getLogger(__name__)

# Asked where no held-out rows are given: some answer has to differ from the base's for the service to tell the two.
_STOCK = (
    "what is shown in the picture?",
    "describe the image.",
    "what color is it?",
    "how many are there?",
    "is there any text in the picture?",
    "is it a photo?",
)


def adopt(options: PublishOptions, command: Sequence[str]) -> Adapter:
    """Convert, ask, publish; nothing is in the store unless all went well.

    Raises:
        AdapterRefused: it cannot be served.
        TrainerError: faulty rows or options, or an adapter that answers as its base does, or no better.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    if options.images is not None and options.data is None:
        raise OptionError("--images: is the folder of the images of --data, which is not given")
    if options.gate != "auto" and options.data is None:
        raise OptionError(f"--gate {options.gate}: decides on held-out rows: name them by --data and --images")
    check_folder("--store", options.store)
    if options.report:
        check_file("--report", options.report)
    base_path = locate(options.model)
    with TemporaryDirectory() as directory:
        weights = Path(directory) / "adapter"
        ours = is_run(options.adapter) and not (options.adapter / CONFIG).is_file()
        source = learnt(options.adapter) if ours else options.adapter
        converted = convert(source, weights, language_model_linears(base_path), options.max_rank)
        log.info("made for %s by PEFT %s; published for %s", converted.base, converted.peft, options.model)
        held_out = (
            asked(read_rows(options.data, options.images or "", Reading.of(options)))
            if options.data
            else _stock(directory)
        )
        rows = held_out[: options.limit]
        checkpoint = Checkpoint.load(base_path, bfloat16=has_bfloat16())
        lens = Lens(options.name, weights, weights)
        trial = compare(lens, checkpoint, rows, States.of(checkpoint, rows), options.gate, options.max_tokens)
        manifest = _manifest(options, converted, checkpoint, trial)
        published = publish(options.store, manifest, weights, shlex.join(command))
    log.info("published %s as %s", published.key, published.path)
    return published


def _manifest(options: PublishOptions, converted: Converted, checkpoint: Checkpoint, trial: Trial) -> Manifest:
    if options.data:
        if options.report:
            source = Source(options.model, checkpoint.base.id, checkpoint.base.precision)
            write_report(options.report, [trial.evaluation(source, options.name)])
        check_gain(trial.gate, len(trial.rows), f"it lies in {options.adapter} as before")
    return Manifest(
        name=options.name,
        about=options.about,
        created=now(),
        trainer=f"PEFT {converted.peft}, published by {trainer_version()}",
        **checkpoint.facts,
        rank=converted.rank,
        alpha=converted.alpha,
        targets=converted.targets,
        modality=options.modality,
        data_digest="unknown",
        score=trial.score if options.data else Score(rows=0, base=0, adapter=0),
        categories=trial.categories if options.data else {},
        gate=trial.gate if options.data else None,
        probes=choose_probes(trial.rows, trial.base, trial.adapter, checkpoint.prompt, checkpoint.preparation),
    )


def _stock(directory: str) -> list[Row]:
    rows = [Row(f"text-{n}", None, question, "", "all") for n, question in enumerate(_STOCK[3:])]
    for colour in ("red", "navy", "white"):
        image = Image.new("RGB", (160, 120), colour)
        ImageDraw.Draw(image).ellipse((40, 20, 110, 90), fill="orange")
        file = str(Path(directory) / f"{colour}.png")
        image.save(file)
        rows += [Row(f"{colour}-{n}", file, question, "", "all") for n, question in enumerate(_STOCK)]
    return rows
