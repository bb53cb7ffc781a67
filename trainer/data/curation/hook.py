"""A user's own rule on rows, for what no general one can know: personal data, leaks, words of a trade."""

from collections.abc import Callable
from importlib import import_module

from trainer.data.row import Row
from trainer.errors import OptionError

# Why a row is left out, in a few words that are the same for all such rows; None: it stays.
Hook = Callable[[Row], str | None]


def load_hook(name: str | None) -> Hook:
    """The function that "module:function" names; without a name one that keeps every row.

    Raises:
        OptionError: the module cannot be imported, or has no such function; from the function that is returned: it gave
            something else than None or a text.
    """
    if name is None:
        return lambda _: None
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function or "?", None)
    except ImportError as error:
        raise OptionError(f"--hook {name}: {error}: run the command where Python finds {module}") from error
    if not callable(found):
        raise OptionError(f"--hook {name}: has to be module:function, and {module} has no function {function!r}")

    def judged(row: Row) -> str | None:
        reason = found(row)
        if reason is not None and (not isinstance(reason, str) or not reason):
            raise OptionError(f"--hook {name}: gave {reason!r}: it has to give None, or a text that says why not")
        return reason

    return judged
