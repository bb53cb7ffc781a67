"""`make bench-load`: every scenario at random arrivals, at shares of the service's capacity.

Starts the service on a store of --adapters adapters, finds its capacity for each scenario by a short closed loop, then
sends requests as a Poisson process at each share of it. Prints and writes a JSON line for each. With --url it asks a
service that runs already through its own adapters; CPU time and memory are not measured then.
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.load.measure import ask_first, capacity, measure
from loadtest.load.scenarios import Scenario, keys_file, scenarios
from loadtest.servers import Server, folder_of_measurement, ours
from loadtest.store.manystore import copy_here, fill


class Load(BaseSettings):
    """Ask the service by scenarios, at random times."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.load"
    )

    scenario: list[str] = Field([], description="those to run [all]; a name that there is not lists them")
    shares: list[float] = Field([0.5, 0.8, 1.1], description="rates, as shares of the capacity found")
    rate: float | None = Field(None, gt=0, description="requests a second, in place of shares")
    seconds: float = Field(20.0, gt=0, description="how long requests come, each time")
    model: str = Field("models/tiny-llava-int4", description="checkpoint to serve")
    adapters: int = Field(200, gt=0, description="adapters in the store that is made")
    url: str | None = Field(None, description="ask this service instead of starting one")
    output: Path = Field(Path("build/load.jsonl"), description="where the JSON lines go; those of this run are added")
    port: int = Field(8420, gt=0, description="port of the service started")


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status: 2 for an unknown scenario."""
    options = CliApp.run(Load, cli_args=arguments)
    names = _served(options.url) if options.url else [f"a{number:05}" for number in range(options.adapters)]
    known = scenarios(names)
    if unknown := sorted(set(options.scenario) - set(known)):
        listed = "\n".join(f"    {each.name}: {each.what}" for each in known.values())
        print(f"--scenario: there is no {', '.join(unknown)}. There are:\n{listed}", file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in known.values() if each.name in (options.scenario or known)]
    # Scenarios with keys come last, as they need a service that has keys.
    for keys in (False, True):
        if some := [each for each in chosen if each.keys == keys]:
            _run(options, some, keys)
    return 0


def _run(options: Load, chosen: list[Scenario], keys: bool) -> None:
    with ExitStack() as stack:
        server = None if options.url else stack.enter_context(_service(options, stack, keys))
        url = options.url or f"http://127.0.0.1:{options.port}"
        for scenario in chosen:
            first = ask_first(url, scenario)
            full = capacity(url, scenario, options.seconds / 4)
            for rate in [options.rate] if options.rate else [share * full for share in options.shares]:
                found = measure(url, scenario, rate, options.seconds, server=server)
                load = round(os.getloadavg()[0], 1)
                line = json.dumps({"bench": "load", "load": load, "capacity": round(full, 1), **first, **found})
                print(line, flush=True)
                with options.output.open("a") as file:
                    file.write(line + "\n")


def _service(options: Load, stack: ExitStack, keys: bool) -> Server:
    folder = Path(stack.enter_context(folder_of_measurement()))
    fill(folder / "store", copy_here(Path("models/adapters"), "shapes", folder), options.adapters)
    (folder / "keys.json").write_text(keys_file())
    more = ("--keys", str(folder / "keys.json")) if keys else ()
    return ours(options.port, options.model, str(folder / "store"), "--log-level", "warning", *more)


def _served(url: str) -> list[str]:
    reply = httpx.get(f"{url}/v1/adapters").raise_for_status().json()
    return sorted(each["name"] for each in reply["adapters"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
