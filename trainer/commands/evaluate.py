"""`trainer evaluate`: held-out rows -> what a base and its adapters answer to them, of a service or in process."""

import asyncio
import logging

from trainer.config.evaluation import EvaluateOptions
from trainer.data.forms.reading import Reading
from trainer.data.row import per_question
from trainer.data.split import read_sets, sample
from trainer.disk import check_file
from trainer.errors import OptionError
from trainer.evaluation.blind import warn
from trainer.evaluation.of_service import ask_service
from trainer.evaluation.result import Evaluation

log = logging.getLogger(__name__)


def evaluate(options: EvaluateOptions) -> list[Evaluation]:
    """Ask every row of the base and of each adapter, and write the report that was asked for.

    Raises:
        OptionError: a service or an adapter that cannot be asked, or options that exclude each other.
        DataError: faulty rows, or a report that cannot be written.
        AdapterRefused: in process, an adapter does not fit `options.model`.
        FileNotFoundError: `options.model` is not a LLaVA checkpoint.
    """
    if options.model and options.url:
        raise OptionError("--model asks in process and --url a service: give one of them")
    if len(set(options.beams)) < len(options.beams):
        raise OptionError("--beams: gives a number twice")
    if options.report:
        check_file("--report", options.report)
    found = read_sets([(options.data, options.images)], Reading.of(options))[: options.limit]
    rows = per_question(sample(found, options.score_rows, options.seed))
    if options.model:
        from trainer.evaluation.in_process import ask_checkpoint  # torch: only where it is needed

        evaluations = ask_checkpoint(options.model, options, rows)
    else:
        urls = options.url or ["http://127.0.0.1:8000"]
        evaluations = [found for url in urls for found in asyncio.run(ask_service(url, options, rows))]
    for each in evaluations:
        if each.seen:
            log.warning(
                "%s was trained on %d of these images, %s first: its figures flatter it; `data split` parts them",
                each.adapter,
                len(each.seen),
                each.seen[0],
            )
        warn(each.name, each.blind)
    if options.report:
        from trainer.evaluation.report import write_report

        write_report(options.report, evaluations)
    return evaluations
