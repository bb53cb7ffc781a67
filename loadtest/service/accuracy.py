"""`python -m loadtest.service.accuracy`: INT4 and bf16 served one after the other, all held-out questions over HTTP.

Prints the right answers of the base and of each adapter on the same rows, and how many points INT4 loses against bf16.
"""

import json
import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from loadtest.process import serving
from trainer.commands.evaluate import evaluate
from trainer.config.evaluation import EvaluateOptions
from trainer.evaluation.result import Evaluation, table


class Accuracy(BaseSettings):
    """Serve each model in turn and ask every held-out question of the base and of the adapters."""

    model_config = SettingsConfigDict(
        frozen=True, env_prefix="MANYLENS_", cli_kebab_case=True, cli_prog_name="python -m loadtest.service.accuracy"
    )

    models: list[str] = Field(["models/tiny-llava-int4", "models/tiny-llava"], description="checkpoints to serve")
    adapters: list[str] = Field(["shapes", "digits"], description="adapters to ask")
    data: Path = Field(Path("build/data"), description="where each adapter has NAME/test.jsonl and NAME/images")
    limit: int | None = Field(None, gt=0, description="only the first rows of each")
    port: int = Field(8199, description="port of the services started")


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit status."""
    options = CliApp.run(Accuracy, cli_args=arguments)
    results: list[Evaluation] = []
    for model in options.models:
        with serving("service", options.port, "--model", model, "--log-level", "warning") as url:
            results += [_ask(options, url, adapter) for adapter in options.adapters]
    print(table(results))
    for adapter in options.adapters:
        print(json.dumps(_verdict(adapter, [result for result in results if result.adapter == adapter])))
    return 0


def _ask(options: Accuracy, url: str, adapter: str) -> Evaluation:
    folder = options.data / adapter
    (result,) = evaluate(
        EvaluateOptions(
            url=[url],
            adapter=[adapter],
            data=str(folder / "test.jsonl"),
            images=str(folder / "images"),
            limit=options.limit,
            score_rows=1_000_000,
            blind_rows=0,
        )
    )
    return result


def _verdict(adapter: str, results: list[Evaluation]) -> dict[str, object]:
    """The figures of one adapter on the first model, and the percentage points that other models have over it."""
    first = results[0].total
    shares = {result.source.precision: 100 * result.total.adapter / result.total.rows for result in results}
    return {
        "bench": "accuracy",
        "adapter": adapter,
        "precision": results[0].source.precision,
        "rows": first.rows,
        "adapter_percent": round(100 * first.adapter / first.rows, 2),
        "base_percent": round(100 * first.base / first.rows, 2),
        "errors_of_base": round((first.rows - first.adapter) / max(1, first.rows - first.base), 3),
        "points_lost": {
            name: round(share - shares[results[0].source.precision], 2)
            for name, share in shares.items()
            if len(shares) > 1
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
