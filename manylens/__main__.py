"""`manylens serve` is `python -m service`; every other command is one of `python -m trainer`.

Imports nothing heavy at module level, since multiprocessing imports the console script again in each of vLLM's
processes.
"""

import sys
from importlib.util import find_spec

PROGRAM = "manylens"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status, as `service.command.run` and `trainer.__main__.main` define it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return _serve(arguments) if arguments[:1] == ["serve"] else _train(arguments)


def _serve(arguments: list[str]) -> int:
    if find_spec("vllm") is None:
        print("vLLM is missing: install manylens[cpu], or manylens[gpu] where there is a GPU", file=sys.stderr)
        return 1
    from service import environment

    environment.prepare()
    from service.command import run

    return run(arguments, alone=True, program=f"{PROGRAM} serve")


def _train(arguments: list[str]) -> int:
    from pydantic import Field
    from pydantic_settings import CliSubCommand

    from service.settings import Settings
    from trainer.__main__ import Trainer
    from trainer.__main__ import main as train

    class Manylens(Trainer):
        """Serve one LLaVA with many adapters, and make adapters from images with questions and answers."""

        serve: CliSubCommand[Settings] = Field(description="serve a base and its adapters over HTTP")

    return train(arguments, PROGRAM, Manylens)


if __name__ == "__main__":
    sys.exit(main())
