"""A JSON file read whole, as one-file data sets demand."""

import json
from typing import Any

from trainer.data import files
from trainer.errors import DataError


def read_json(url: str, kind: type, is_called: str) -> Any:
    """A JSON file whose outermost value is of `kind`.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        value = json.loads(files.read(url).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError([f"{url}: not UTF-8 text at byte {error.start + 1}: save the file as UTF-8"]) from error
    except json.JSONDecodeError as error:
        raise DataError([f"{url}:{error.lineno}: not JSON: {error.msg}"]) from error
    except (ValueError, RecursionError) as error:
        raise DataError([f"{url}: not JSON: {error}"]) from error
    if not isinstance(value, kind):
        raise DataError([f"{url}: not {is_called}: choose another --form"])
    return value
