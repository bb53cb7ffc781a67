"""`make bench-tools`: other people's load tools ask our OpenAI routes: `vllm bench serve`, and NVIDIA's AIPerf.

Both make their own requests (vLLM's random-mm data set, AIPerf's synthetic pictures), stream the answers and count
tokens by themselves; an answer that they could not read would count as failed. Prints a JSON line for each.

vLLM's random texts are random tokens, and one in a hundred of the embedded model's holds a NUL, which the service
refuses as no text (400): so many may fail. vLLM's `ignore_eos`, which it sends with random data, is switched off.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.servers import as_package, folder_of_measurement, ours

# The share of requests that may fail: random texts that hold a NUL, with a margin.
_REFUSED = 0.04


class Tools(BaseSettings):
    """Let public load tools ask the service."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.load.tools"
    )

    model: Path = Field(Path("models/tiny-llava-int4"), description="checkpoint to serve, whose tokenizer counts")
    requests: int = Field(200, gt=0, description="requests of each tool")
    concurrency: int = Field(16, gt=0, description="of them at once")
    side: int = Field(64, gt=0, description="pictures are so many pixels wide and high")
    aiperf: Path = Field(Path("build/aiperf/venv/bin/aiperf"), description="AIPerf's command")
    port: int = Field(8440, gt=0, description="port of the service started")


def main(arguments: list[str]) -> int:
    """Serve, ask by each tool, print; returns 1 where more failed than random texts explain."""
    options = CliApp.run(Tools, cli_args=arguments)
    with folder_of_measurement() as directory:
        folder = Path(directory).resolve()
        with ours(options.port, str(options.model), "models/adapters", "--log-level", "warning"):
            url = f"http://127.0.0.1:{options.port}"
            base = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
            lines = [_vllm(options, url, base, folder), _aiperf(options, url, base, folder)]
    for line in lines:
        print(json.dumps({"bench": "tools", "load": round(os.getloadavg()[0], 1), **line}), flush=True)
    return int(any(line["requests"] < (1 - _REFUSED) * options.requests for line in lines))


def _vllm(options: Tools, url: str, base: str, folder: Path) -> dict[str, Any]:
    subprocess.run(
        [
            sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai-chat",
            "--base-url", url, "--endpoint", "/v1/chat/completions", "--model", base, "--tokenizer", str(options.model),
            "--dataset-name", "random-mm", "--num-prompts", str(options.requests), "--max-concurrency",
            str(options.concurrency), "--random-input-len", "16", "--random-output-len", "8",
            "--random-mm-base-items-per-request", "1", "--random-mm-limit-mm-per-prompt", '{"image": 1, "video": 0}',
            "--random-mm-bucket-config", f"{{({options.side}, {options.side}, 1): 1.0}}",
            "--extra-body", json.dumps({"ignore_eos": False}),
            "--percentile-metrics", "ttft,tpot,e2el", "--metric-percentiles", "50,95,99",
            "--save-result", "--result-dir", str(folder), "--result-filename", "vllm.json",
        ],
        check=True, stdout=sys.stderr, env=os.environ | as_package(folder),
    )  # fmt: skip
    found = json.loads((folder / "vllm.json").read_text())
    return {
        "tool": "vllm bench serve, random-mm",
        "requests": found["completed"],
        "failed": found["failed"],
        "requests_per_s": round(found["request_throughput"], 1),
        "first_token_p50_ms": round(found["p50_ttft_ms"], 1),
        "p50_ms": round(found["p50_e2el_ms"], 1),
        "p95_ms": round(found["p95_e2el_ms"], 1),
    }


def _aiperf(options: Tools, url: str, base: str, folder: Path) -> dict[str, Any]:
    side = str(options.side)
    subprocess.run(
        [
            str(options.aiperf), "profile", "--model", base, "--url", url, "--endpoint-type", "chat", "--streaming",
            "--tokenizer", str(options.model.resolve()), "--request-count", str(options.requests),
            "--concurrency", str(options.concurrency), "--isl", "16", "--osl", "8",
            "--image-width-mean", side, "--image-height-mean", side, "--image-format", "png",
            "--ui", "none", "--artifact-dir", str(folder / "aiperf"),
        ],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    (file,) = (folder / "aiperf").rglob("profile_export_aiperf.json")
    found = json.loads(file.read_text())
    return {
        "tool": "AIPerf, synthetic pictures",
        "requests": round(found["request_count"]["avg"]),
        "failed": round(found.get("error_request_count", {}).get("avg", 0)),
        "requests_per_s": round(found["request_throughput"]["avg"], 1),
        "first_token_p50_ms": round(found["time_to_first_token"]["p50"], 1),
        "p50_ms": round(found["request_latency"]["p50"], 1),
        "p95_ms": round(found["request_latency"]["p95"], 1),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
