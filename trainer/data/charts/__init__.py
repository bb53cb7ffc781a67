"""`data charts`: images, and JSON lines of questions with true answers; by the same options the same charts."""

import numpy as np
from tqdm import tqdm

from trainer.config.data import ChartOptions
from trainer.data import files
from trainer.data.charts.chart import invent
from trainer.data.charts.drawing import draw
from trainer.data.charts.questions import questions_of
from trainer.data.charts.written import endpoint_of, write
from trainer.data.row import Row
from trainer.data.write import Report, writing


def make(options: ChartOptions) -> str:
    """Draw the charts, make their questions and write both; returns a sentence that says where they are.

    Raises:
        DataError: a file cannot be written.
        OptionError: one of --questions-url and --questions-model without the other, or the endpoint cannot be asked.
    """
    endpoint = endpoint_of(options)
    report = Report()
    images = files.join(options.output, "images")
    rows = files.join(options.output, "charts.jsonl")
    with writing(rows, images, report) as writer:
        for number in tqdm(range(options.charts), desc="charts", unit="chart"):
            rng = np.random.default_rng((options.seed, number))
            chart = invent(options.kinds[number % len(options.kinds)], options, rng)
            name = f"{chart.kind}-{options.seed}-{number:06}"
            image = files.join(images, f"{name}.png")
            files.write(image, draw(chart, options.size, rng))
            questions = questions_of(chart, options.ask, options.questions, rng, options.refer)
            if endpoint:
                written, refused = write(endpoint, chart, options.questions)
                questions += written
                for _ in range(refused):
                    report.note("refused, the endpoint's answer is no short text", name)
            for place, question in enumerate(questions):
                writer.write(Row(f"{name}#{place}", image, question.text, question.answer, question.kind))
    return f"{report}\n--data {rows} --images {images}"
