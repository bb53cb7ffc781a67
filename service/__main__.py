"""`python -m service`. Imports nothing at module level: multiprocessing runs this again in each of vLLM's processes."""

import sys


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status."""
    from service.command import run

    return run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    from service import environment

    environment.prepare()
    from service.command import run

    sys.exit(run(sys.argv[1:], alone=True))
