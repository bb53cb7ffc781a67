"""`trainer publish`: an adapter made elsewhere -> converted, asked against its base, a version in the store."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from service.adapters.modules import CONFIG, language_model_linears
from service.checkpoint import locate
from service.types import Adapter
from trainer.adapter.convert import convert, most_bytes
from trainer.adapter.foreign.folder import find
from trainer.adapter.foreign.hub import fetch, is_id
from trainer.adapter.local import LocalAdapter
from trainer.adapter.tuners import to_lora, tuner_of
from trainer.adapter.version import how_to_serve, trainer_version, write_version
from trainer.config.evaluation import PublishOptions
from trainer.data.forms.reading import Reading
from trainer.data.row import per_question
from trainer.data.rows import read_rows
from trainer.disk import check_file, check_folder
from trainer.errors import OptionError
from trainer.evaluation.comparison import compare
from trainer.evaluation.manifest import manifest_of
from trainer.evaluation.report import write_report
from trainer.evaluation.result import Source
from trainer.evaluation.stock_rows import stock_rows
from trainer.model.checkpoint import Checkpoint
from trainer.model.features import States
from trainer.model.precision import has_bfloat16
from trainer.training.run import is_run, learnt

log = logging.getLogger(__name__)


def publish(options: PublishOptions, command: Sequence[str]) -> Adapter:
    """Convert an adapter, ask it and its base, and publish it; the store is not changed unless all went well.

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
        # 1. PEFT's two files as the engine takes them.
        weights, linears = Path(directory) / "adapter", language_model_linears(base_path)
        source = find(_folder(options.adapter, most_bytes(linears, options.max_rank)))
        tuner = tuner_of(source)
        if tuner is None:
            converted = convert(source, weights, linears, options.max_rank)
            log.info("made for %s by PEFT %s; published for %s", converted.base, converted.peft, options.model)
        # 2. Rows to ask, those given or some of our own.
        held_out = (
            per_question(read_rows(options.data, options.images or "", Reading.of(options)))
            if options.data
            else stock_rows(directory)
        )
        rows = held_out[: options.limit]
        # 3. Both models on these rows.
        checkpoint = Checkpoint.load(base_path, bfloat16=has_bfloat16())
        states, how = States.of(checkpoint, rows), ""
        if tuner is not None:  # converted by what it answers
            plain = Path(directory) / "plain"
            how = f", {to_lora(source, tuner, plain, checkpoint, linears, rows, states, options.max_rank)}"
            converted = convert(plain, weights, linears, options.max_rank)
        adapter = LocalAdapter(options.name, weights, weights)
        blind_rows = options.blind_rows if options.data else 0  # our own rows are no held-out rows
        trial = compare(adapter, checkpoint, rows, states, options.gate, options.max_tokens, blind_rows)
        if options.data:
            if options.report:
                place = Source(options.model, checkpoint.base.id, checkpoint.base.precision)
                write_report(options.report, [trial.evaluation(place, options.name)])
            trial.check(f"it lies in {options.adapter} as before")
        # 4. A version that says how it was made.
        manifest = manifest_of(
            options,
            checkpoint,
            trial,
            trainer=f"PEFT {converted.peft}{how}, published by {trainer_version()}",
            rank=converted.rank,
            alpha=converted.alpha,
            targets=converted.targets,
            data_digest="unknown",
            held_out=bool(options.data),
        )
        calibration = trial.calibration(checkpoint.base.precision) if options.data else None
        published = write_version(
            options.store, manifest, weights, shlex.join(command), canary=options.canary, calibration=calibration
        )
    log.info("published %s as %s", published.key, published.path)
    log.info("%s", how_to_serve(options.store, options.model))
    return published


def _folder(adapter: str, most: int) -> Path:
    """What --adapter names: files here, what a run has learnt, or an adapter of the hub, of `most` bytes."""
    if is_id(adapter):
        return fetch(adapter, most)
    folder = Path(adapter)
    return learnt(folder) if is_run(folder) and not (folder / CONFIG).is_file() else folder
