"""`data caption` and `data questions`: a vision model writes rows about pictures, through an endpoint.

What it costs is told before it starts: how many requests, and by the first picture's answer how many tokens, and how
much money where prices are given. Every answer is kept as it comes, in OUTPUT.asked beside the output.
"""

import base64
import io
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from service.errors import ServiceError
from service.images import decode
from trainer.config.data import CaptionOptions, EndpointOptions, QuestionOptions
from trainer.data import files
from trainer.data.annotations.pictures import PICTURES
from trainer.data.charts.written import accept
from trainer.data.curation.agreement import agreed
from trainer.data.curation.hook import load_hook
from trainer.data.curation.journal import Journal
from trainer.data.endpoint import Access, Completion, Endpoint
from trainer.data.forms.talk import PLACEHOLDER
from trainer.data.row import Row
from trainer.data.rows import scan
from trainer.data.write import Report, writing
from trainer.errors import DataError, OptionError

log = logging.getLogger(__name__)

# What is asked for one more answer to a question.
SHORT = "{question}\nAnswer with one to three words or a number."
# The options that shape answers: a journal goes on only with the same.
_SETTINGS = ("model", "max_tokens", "temperature", "side", "ask", "answers", "count")

# Asks the endpoint a text about one picture, at a temperature.
Ask = Callable[[str, float], Completion]


@dataclass(frozen=True, slots=True)
class Written:
    """What came of one picture: its questions with their answers, and why others were left out."""

    rows: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...] = ()


def caption(options: CaptionOptions, transport: httpx.BaseTransport | None = None) -> str:
    """Write a caption of each picture, as the answer to --question; returns counts and cost in words.

    Raises:
        OptionError: an endpoint that cannot be asked, a cost over --most-cost, or other options than the run was begun
            with, whose answers are kept.
        DataError: rows or pictures that cannot be read, or a file that cannot be written.
    """

    def of(ask: Ask) -> Written:
        said = ask(options.ask, options.temperature)
        return Written(((options.question, said.text),)) if said.text else Written((), (f"caption {said.fault}",))

    return _write(options, of, "caption", 1, transport)


def questions(options: QuestionOptions, transport: httpx.BaseTransport | None = None) -> str:
    """Write questions about each picture with answers; with --answers those on which several answers agree.

    Returns counts and cost in words.

    Raises:
        OptionError: as `caption`, or braces in --ask that are not doubled.
        DataError: as `caption`.
    """
    try:
        task = options.ask.format(count=options.count)
    except (LookupError, ValueError) as error:
        raise OptionError(f"--ask: {error}: braces other than {{count}} have to be doubled") from error

    def of(ask: Ask) -> Written:
        said = ask(task, options.temperature)
        if not said.text:
            return Written((), (f"questions {said.fault}",))
        found, refused = accept(said.text, options.count)
        left = ["no question with a short answer in a JSON list"] * refused
        rows = []
        for each in found:
            answers = [each.answer]
            while len(answers) < options.answers:
                again = ask(SHORT.format(question=each.text), options.again)
                answers.append(again.text or f"\0{len(answers)}")  # a missing answer agrees with no other
            answer = agreed(answers, options.agree)
            if answer is None or "\0" in answer:
                left.append(f"answers do not agree, by --agree {options.agree:g}")
            else:
                rows.append((each.text, answer))
        return Written(tuple(rows), tuple(left))

    return _write(options, of, "written", 1 + options.count * (options.answers - 1), transport)


def _write(
    options: EndpointOptions,
    of: Callable[[Ask], Written],
    category: str,
    requests: int,
    transport: httpx.BaseTransport | None,
) -> str:
    """Ask about every picture that is not done, and write all rows.

    Raises:
        OptionError: an endpoint that cannot be asked, a cost over --most-cost, or options of a run that was begun.
        DataError: rows or pictures that cannot be read, or a file that cannot be written.
    """
    hook = load_hook(options.hook)
    pictures = _pictures(options)
    output = files.local(options.output)
    if output is None:
        raise OptionError(f"--output {options.output}: has to lie on this machine: answers are kept beside it")
    settings = {name: getattr(options, name) for name in _SETTINGS if hasattr(options, name)}
    with (
        closing(Journal(Path(f"{output}.asked"), settings)) as journal,
        closing(Endpoint(_access(options), transport)) as endpoint,
    ):
        left = [name for name in pictures if name not in journal.done]
        bill = _Bill(options, len(left), requests)
        log.info("%s", bill.before(len(pictures) - len(left)))
        if left:
            _ask_all(options, left, _asking(options, endpoint, of, journal, bill), bill)
        if options.plan:
            return f"planned: {len(left)} pictures, of which one was asked; the same command without --plan goes on"
        report = Report()
        with writing(options.output, options.images, report) as writer:
            for name in pictures:
                for row in _rows(name, journal.done[name], category, options, report):
                    if why := hook(row):
                        report.note(f"left out, {why}", row.id)
                    else:
                        writer.write(row)
    return "\n".join([str(report), bill.paid()])


def _ask_all(options: EndpointOptions, left: Sequence[str], one: Callable[[str], None], bill: "_Bill") -> None:
    """Ask about the first picture alone, and log what all will cost by it; then about --at-once of them at a time."""
    one(left[0])
    log.info("%s", bill.expected())
    if options.plan:
        return
    with (
        ThreadPoolExecutor(options.at_once) as threads,
        tqdm(total=len(left), initial=1, desc="pictures", unit="picture", disable=None) as progress,
    ):
        names = iter(left[1:])
        waiting: set[Future[None]] = set()
        try:
            while True:
                for name in names:
                    waiting.add(threads.submit(one, name))
                    if len(waiting) >= 2 * options.at_once:
                        break
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
                    progress.update()
        finally:
            for each in waiting:
                each.cancel()


def _access(options: EndpointOptions) -> Access:
    return Access(
        *(options.url, options.model, options.key),
        away=", --patience-s: what was answered before is kept, and the same command goes on from there",
        patience_s=options.patience_s,
        per_minute=options.per_minute,
        max_tokens=options.max_tokens,
    )


def _asking(
    options: EndpointOptions,
    endpoint: Endpoint,
    of: Callable[[Ask], Written],
    journal: Journal,
    bill: "_Bill",
) -> Callable[[str], None]:
    """A function that asks about the picture of a name and keeps what came of it; it raises as `caption`."""

    def one(name: str) -> None:
        bill.check()
        try:
            picture = _data_url(files.join(options.images, name), options.side)
        except ServiceError as error:
            journal.add({"image": name, "rows": [], "left_out": [f"picture: {error}"]})
            return
        tokens = [0, 0]

        def ask(text: str, temperature: float) -> Completion:
            content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
            said = endpoint.ask([{"role": "user", "content": content}], temperature)
            tokens[0] += said.tokens_in
            tokens[1] += said.tokens_out
            bill.add(said)
            return said

        written = of(ask)
        journal.add({"image": name, "rows": written.rows, "left_out": written.left_out, "tokens": tokens})

    return one


class _Bill:
    """Requests, tokens and money: what is to be expected, and what it came to."""

    def __init__(self, options: EndpointOptions, pictures: int, requests: int) -> None:
        self._options, self._pictures, self._requests = options, pictures, requests
        self._tokens = [0, 0]
        self._asked = 0
        self._lock = threading.Lock()

    def before(self, done: int) -> str:
        """A sentence before the first request: pictures, and at most how many requests, tokens and how much money."""
        options, most = self._options, self._pictures * self._requests
        tokens = most * options.max_tokens
        minutes = f", at least {most / options.per_minute:.0f} minutes at --per-minute" if options.per_minute else ""
        money = f", {self._money(0, tokens):.2f} in money" if options.price_out else ""
        return (
            f"{self._pictures} pictures to ask about ({done} are done), at most {most} requests{minutes}; at most"
            f" {tokens} tokens come back{money}"
        )

    def expected(self) -> str:
        """What all will cost if every picture costs what the first did.

        Raises:
            OptionError: that is over --most-cost.
        """
        tokens_in, tokens_out = (each * self._pictures for each in self._tokens)
        if not tokens_in and not tokens_out:
            return "the endpoint does not tell tokens: what all costs is not known"
        money = self._money(tokens_in, tokens_out)
        most = self._options.most_cost
        if most is not None and money > most:
            raise OptionError(
                f"--most-cost {most:g}: by the first picture all would cost {money:.2f}: ask about fewer with --limit,"
                " or allow more; its answer is kept"
            )
        priced = self._options.price_in or self._options.price_out
        told = f", {money:.2f} in money" if priced else "; --price-in and --price-out tell the money"
        return f"by the first picture: {tokens_in} tokens go in and {tokens_out} come back in all{told}"

    def add(self, said: Completion) -> None:
        """Count one more answer and what it cost."""
        with self._lock:
            self._asked += 1
            self._tokens[0] += said.tokens_in
            self._tokens[1] += said.tokens_out

    def check(self) -> None:
        """Check that more may be asked.

        Raises:
            OptionError: --most-cost is spent.
        """
        most = self._options.most_cost
        if most is not None and self._money(*self._tokens) > most:
            raise OptionError(f"--most-cost {most:g}: is spent; what was answered is kept, and more goes on from there")

    def paid(self) -> str:
        """A sentence with the requests made, the tokens and the cost."""
        priced = self._options.price_in or self._options.price_out
        money = f", {self._money(*self._tokens):.4f} in money" if priced else ""
        return f"{self._asked} requests, {self._tokens[0]} tokens in and {self._tokens[1]} back{money}"

    def _money(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._options.price_in + tokens_out * self._options.price_out) / 1e6


def _pictures(options: EndpointOptions) -> list[str]:
    """The names of the pictures to ask about, below --images."""
    if options.data:
        found = dict.fromkeys(row.image for row in scan(options.data, options.images) if row.image)
        names = [files.relative(image, options.images) for image in found]
    else:
        names = files.listed(options.images, PICTURES)
    if not names:
        raise DataError([f"{options.data or options.images}: holds no pictures"])
    return names[: options.limit]


def _data_url(image: str, side: int) -> str:
    """The picture as an endpoint takes it: a JPEG whose longer side is `side` pixels at most."""
    picture = decode(files.read(image), side=side)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _rows(name: str, entry: dict[str, Any], category: str, options: EndpointOptions, report: Report) -> Iterator[Row]:
    """A picture's rows as they were kept, those that could not be trained on left out."""
    for why in entry["left_out"]:
        report.note(f"left out, {why}", name)
    for number, (question, answer) in enumerate(entry["rows"]):
        id_ = f"{name}#{number}"
        if PLACEHOLDER in question + answer or "\0" in question + answer or not answer.strip():
            report.note(f"left out, it holds {PLACEHOLDER} or no text", id_)
        else:
            yield Row(id_, files.join(options.images, name), question, answer.strip(), category)
