"""`python -m service.canary`: reads the options and watches."""

import sys

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from service import usage
from service.canary.options import Options
from service.canary.watch import Watcher

PROGRAM = "python -m service.canary"


def main(arguments: list[str] | None = None) -> int:
    """Watch until interrupted, or look once; returns the exit status.

    0: all was looked at, or help was printed; 1: a replica was away, behind or refused; 2: an option is wrong.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if usage.wants_help(given):
        print(usage.usage(PROGRAM, Options), end="")
        return 0
    try:
        options = CliApp.run(Options, cli_args=given)
    except SettingsError as error:
        print(usage.unknown(error, PROGRAM, Options) or error, file=sys.stderr)
        return 2
    except ValidationError as error:
        for fault in error.errors():
            print(f"option {'.'.join(map(str, fault['loc']))}: {fault['msg']}", file=sys.stderr)
        return 2
    try:
        return Watcher(options).run()
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
