"""`trainer publish`: an adapter made elsewhere -> converted, asked against its base, a version in the store."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from service.adapters.modules import CONFIG, language_model_linears
from service.checkpoint import locate
from service.types import Adapter
from trainer.adapter.convert import convert
from trainer.adapter.local import LocalAdapter
from trainer.adapter.version import trainer_version, write_version
from trainer.config.evaluation import PublishOptions
from trainer.data.forms.reading import Reading
from trainer.data.row import asked
from trainer.data.rows import read_rows
from trainer.disk import check_file, check_folder
from trainer.errors import OptionError
from trainer.evaluation.comparison import compare
from trainer.evaluation.gate import check_gain
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
        # 1. PEFT's two files as the engine takes them.
        weights = Path(directory) / "adapter"
        ours = is_run(options.adapter) and not (options.adapter / CONFIG).is_file()
        source = learnt(options.adapter) if ours else options.adapter
        converted = convert(source, weights, language_model_linears(base_path), options.max_rank)
        log.info("made for %s by PEFT %s; published for %s", converted.base, converted.peft, options.model)
        # 2. Rows to ask, those given or some of our own.
        held_out = (
            asked(read_rows(options.data, options.images or "", Reading.of(options)))
            if options.data
            else stock_rows(directory)
        )
        rows = held_out[: options.limit]
        # 3. Both models on these rows.
        checkpoint = Checkpoint.load(base_path, bfloat16=has_bfloat16())
        adapter = LocalAdapter(options.name, weights, weights)
        trial = compare(adapter, checkpoint, rows, States.of(checkpoint, rows), options.gate, options.max_tokens)
        if options.data:
            if options.report:
                place = Source(options.model, checkpoint.base.id, checkpoint.base.precision)
                write_report(options.report, [trial.evaluation(place, options.name)])
            check_gain(trial.gate, len(trial.rows), f"it lies in {options.adapter} as before")
        # 4. A version that says how it was made.
        manifest = manifest_of(
            options,
            checkpoint,
            trial,
            trainer=f"PEFT {converted.peft}, published by {trainer_version()}",
            rank=converted.rank,
            alpha=converted.alpha,
            targets=converted.targets,
            data_digest="unknown",
            held_out=bool(options.data),
        )
        published = write_version(options.store, manifest, weights, shlex.join(command))
    log.info("published %s as %s", published.key, published.path)
    return published
