"""`trainer calibrate`: held-out rows asked of an adapter -> the same adapter, published with its calibration."""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from service.adapters.aliases import STABLE
from service.adapters.store import Store
from service.types import Adapter
from trainer.adapter.local import LocalAdapter
from trainer.adapter.version import add_calibration
from trainer.config.evaluation import CalibrateOptions
from trainer.data.forms.reading import Reading
from trainer.data.index import image_digests
from trainer.data.row import Row, per_question
from trainer.data.split import read_sets, sample
from trainer.data.stream import Chosen
from trainer.disk import check_folder
from trainer.errors import OptionError
from trainer.evaluation.calibration import calibrate as fitted
from trainer.evaluation.of_service import ask_version
from trainer.evaluation.result import ModelAnswer

log = logging.getLogger(__name__)


def calibrate(options: CalibrateOptions) -> Adapter:
    """Publish the adapter's stable version, or its canary, again with a calibration; its weights stay as they are.

    Rows about images that it was trained on are left out: on these its confidence is higher than on others.

    Raises:
        OptionError: an adapter or a service that cannot be asked, or too few rows, right answers or wrong ones.
        DataError: faulty rows.
        AdapterNotFound: the store has no such adapter, or it has no canary.
        AdapterRefused, FileNotFoundError: in process, it does not fit `options.model`, or that is no checkpoint.
    """
    if options.model and options.url:
        raise OptionError("--model asks in process and --url a service: give one of them")
    check_folder("--store", options.store)
    # 1. The version, and rows that it was not trained on.
    name, _, alias = options.adapter.partition("@")
    adapter = Store(options.store).named(name, alias or STABLE)
    local = LocalAdapter(adapter.name, adapter.path, adapter.path)
    rows = per_question(sample(_unseen(options, local), options.score_rows, options.seed))
    # 2. What it answers, and how surely.
    said, precision = _said(options, adapter, local, rows)
    # 3. The same files and the calibration, as a version of their own.
    published = add_calibration(options.store, adapter, fitted(rows, said, precision), alias or STABLE)
    log.info("published %s as %s", published.key, published.path)
    return published


def _unseen(options: CalibrateOptions, local: LocalAdapter) -> Sequence[Row]:
    rows = read_sets([(options.data, options.images)], Reading.of(options))
    seen = set(local.trained_on(image_digests(rows, None)))
    left = Chosen(rows, np.array([place for place, row in enumerate(rows) if row.image not in seen], np.int64))
    if seen:
        log.info(
            "%d of %d rows are about images that %s was trained on: left out",
            len(rows) - len(left),
            len(rows),
            local.name,
        )
    if not left:
        raise OptionError(f"--data {options.data}: {local.name} was trained on all its images: give others")
    return left


def _said(
    options: CalibrateOptions, adapter: Adapter, local: LocalAdapter, rows: list[Row]
) -> tuple[list[ModelAnswer], str]:
    """The answers, and the precision of the base that was asked."""
    if options.model:
        from trainer.evaluation.in_process import ask_adapter  # torch: only where it is needed

        return ask_adapter(options.model, local, rows, options.max_tokens)
    return asyncio.run(ask_version(options.url or "http://127.0.0.1:8000", adapter.key, options, rows))
