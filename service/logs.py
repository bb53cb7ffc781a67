"""Log lines, as text or as JSON, each with the id of the request it is about and of its trace."""

import logging
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from service.tracing import trace_id

# Set by service/middleware.py; tasks and worker threads of a request inherit it.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(about)s"
# vLLM's errors come to us as exceptions, which we word.
_OTHERS = {
    "vllm": logging.CRITICAL,
    "py.warnings": logging.CRITICAL,
    "torch": logging.ERROR,
    "transformers": logging.ERROR,
    "httpx": logging.WARNING,
    "uvicorn": logging.WARNING,
}
_JSON = "%(levelname)s %(name)s %(message)s"


def configure(level: str, form: Literal["text", "json"]) -> None:
    """Print what is of `level` or worse to stderr, for the whole process."""
    # No line of ours says where in the source it was logged, and to find that out takes five times what the rest does
    # (Python's logging HOWTO, "Optimization").
    logging._srcfile = None
    handler = logging.StreamHandler()
    if form == "json":
        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter(_JSON, rename_fields=names, timestamp=True))
        handler.addFilter(_tell_fields)
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
        handler.addFilter(_tell_text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What other people's code says by the way is for who debugs.
    for name, least in _OTHERS.items():
        logging.getLogger(name).setLevel(logging.NOTSET if level == "debug" else least)


def _tell_fields(record: logging.LogRecord) -> bool:
    fields = {"request_id": request_id.get(), "trace_id": trace_id()}
    record.__dict__.update({name: value for name, value in fields.items() if value})
    return True


def _tell_text(record: logging.LogRecord) -> bool:
    record.about = f" [{request_id.get()}]" if request_id.get() else ""
    return True
