"""Richer questions from an OpenAI-compatible endpoint, which gets the chart's numbers; short answers alone are kept."""

import json
from typing import Any

import httpx

from trainer.config.data import ChartOptions
from trainer.data.charts.chart import Chart
from trainer.data.charts.questions import Question
from trainer.data.endpoint import Access, Endpoint
from trainer.errors import OptionError

TASK = (
    "You write questions about a chart that a reader can answer from the picture alone. Answer with a JSON list of "
    'objects {"question": "…", "answer": "…"} and nothing else; an answer is one to three words or a number.'
)
# The most characters of a question and of an answer.
QUESTION, ANSWER = 200, 40


def endpoint_of(options: ChartOptions, transport: httpx.BaseTransport | None = None) -> Endpoint | None:
    """The endpoint that the options name, if any.

    Raises:
        OptionError: they have one of --questions-url and --questions-model without the other.
    """
    if not options.questions_url and not options.questions_model:
        return None
    if not options.questions_url or not options.questions_model:
        raise OptionError("--questions-url and --questions-model go together: give both or neither")
    where = (options.questions_url, options.questions_model, options.questions_key, "--questions-url")
    return Endpoint(Access(*where), transport)


def write(endpoint: Endpoint, chart: Chart, count: int) -> tuple[list[Question], int]:
    """At most `count` questions of category "written", and how many were refused.

    Raises:
        OptionError: the endpoint cannot be reached, refuses the key or the model, or answers in another form.
    """
    values = dict(zip(chart.series, chart.values, strict=True))
    facts = {"chart": chart.kind, "title": chart.title, "names": chart.names, "values": values}
    asked = f"{count} questions about this chart: {json.dumps(facts)}"
    messages = [{"role": "system", "content": TASK}, {"role": "user", "content": asked}]
    return accept(endpoint.ask(messages, temperature=0).text, count)


def accept(text: str, count: int) -> tuple[list[Question], int]:
    """The usable questions in a model's answer, and how many were not; a whole answer that is no list counts as one."""
    start, end = text.find("["), text.rfind("]")
    try:
        found = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return [], 1
    good = [Question("written", each["question"].strip(), each["answer"].strip()) for each in found if _usable(each)]
    return good[:count], len(found) - len(good)


def _usable(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    question, answer = item.get("question"), item.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str) or "<image>" in question + answer:
        return False
    return 0 < len(question.strip()) <= QUESTION and 0 < len(answer.strip()) <= ANSWER and "\n" not in answer.strip()
