"""`make bench-gateway`: our own time for a request, the engine taking none, at a constant rate of arrivals.

The service runs in a process of its own behind a socket, on the fake engine; the client in this one. Prints a JSON
line a case; `cpu_ms` is the service's CPU time for a request, which a busy machine changes least.
"""

import base64
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
from PIL import Image
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.client import Due, cpu_seconds, encode, percentile, send_all
from loadtest.process import fake_service

_SIDE = 64


class Bench(BaseSettings):
    """Ask the gateway about a small PNG at a constant rate, as JSON and as a form."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.gateway"
    )

    rate: float = Field(200.0, gt=0, description="requests that come in a second")
    seconds: float = Field(30.0, gt=0, description="how long, for each case")
    rounds: int = Field(1, gt=0, description="times that each case is run, in turn")
    port: int = Field(8198, description="port of the service started")


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status."""
    options = CliApp.run(Bench, cli_args=arguments)
    with fake_service(options.port) as url:
        cases = {"json": _json, "multipart": _form}
        for shape in cases.values():
            send_all(url, _arrivals(url, shape, options.rate, 1.0))
        for _ in range(options.rounds):
            for name, shape in cases.items():
                print(json.dumps(_measure(url, name, shape, options)), flush=True)
    return 0


def _measure(url: str, name: str, shape: Callable[[str], dict[str, Any]], options: Bench) -> dict[str, object]:
    before = cpu_seconds(url)
    sent = send_all(url, _arrivals(url, shape, options.rate, options.seconds))
    used = cpu_seconds(url) - before
    took = sorted(1000 * each.seconds for each in sent)
    return {
        "bench": "gateway",
        "case": name,
        "rate": options.rate,
        "requests": len(sent),
        **{f"p{percent}_ms": round(percentile(took, percent), 2) for percent in (50, 95, 99)},
        "max_ms": round(took[-1], 2),
        "errors": sum(each.status != 200 for each in sent),
        "cpu_ms": round(1000 * used / len(sent), 2),
    }


def _arrivals(url: str, shape: Callable[[str], dict[str, Any]], rate: float, seconds: float) -> list[Due]:
    """Requests at even intervals, no two of which ask the same."""
    return [
        Due(number / rate, "", encode(httpx.Request("POST", f"{url}/v1/vqa", **shape(f"what is on page {number}?"))))
        for number in range(round(rate * seconds))
    ]


def _json(question: str) -> dict[str, Any]:
    image = f"data:image/png;base64,{base64.b64encode(_PNG).decode()}"
    return {"json": {"image": image, "question": question, "adapter": "shapes"}}


def _form(question: str) -> dict[str, Any]:
    return {"files": {"image": ("page.png", _PNG, "image/png")}, "data": {"question": question, "adapter": "shapes"}}


def _png() -> bytes:
    """A picture with some detail, which needs no scaling."""
    buffer = io.BytesIO()
    Image.merge("RGB", [Image.radial_gradient("L").resize((_SIDE, _SIDE))] * 3).save(buffer, "PNG")
    return buffer.getvalue()


_PNG = _png()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
