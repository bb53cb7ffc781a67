"""Richer questions from an OpenAI-compatible endpoint, which is told the chart's numbers; only short answers pass."""

import json
from typing import Any

import httpx

from trainer.config.data import ChartOptions
from trainer.data.charts.chart import Chart
from trainer.data.charts.questions import Question
from trainer.errors import OptionError

TASK = (
    "You write questions about a chart that a reader can answer from the picture alone. Answer with a JSON list of "
    'objects {"question": "…", "answer": "…"} and nothing else; an answer is one to three words or a number.'
)
QUESTION, ANSWER = 200, 40


class Endpoint:
    """One connection to the endpoint that the options name."""

    def __init__(self, options: ChartOptions, transport: httpx.BaseTransport | None = None) -> None:
        if not options.questions_url or not options.questions_model:
            raise OptionError("--questions-url and --questions-model go together: give both or neither")
        key = options.questions_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._url = options.questions_url.rstrip("/")
        self._model = options.questions_model
        self._client = httpx.Client(headers=headers, timeout=120, transport=transport)

    def ask(self, chart: Chart, count: int) -> tuple[list[Question], int]:
        """At most `count` questions of category "written", and how many were refused.

        Raises:
            OptionError: the endpoint cannot be reached or does not speak the protocol.
        """
        values = dict(zip(chart.series, chart.values, strict=True))
        facts = {"chart": chart.kind, "title": chart.title, "names": chart.names, "values": values}
        messages = [
            {"role": "system", "content": TASK},
            {"role": "user", "content": f"{count} questions about this chart: {json.dumps(facts)}"},
        ]
        try:
            response = self._client.post(
                f"{self._url}/chat/completions", json={"model": self._model, "messages": messages, "temperature": 0}
            )
            text = str(response.raise_for_status().json()["choices"][0]["message"]["content"])
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OptionError(f"--questions-url {self._url}: {error}") from error
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise OptionError(f"--questions-url {self._url}: the answer is no chat completion: {error!r}") from error
        return accept(text, count)


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
