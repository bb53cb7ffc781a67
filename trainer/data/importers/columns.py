"""Which column of a table holds which field of a row."""

from trainer.data.config import ImportOptions
from trainer.errors import OptionError

FIELDS = ("id", "image", "category", "question", "answer")
NEEDED = ("question", "answer")


def named(options: ImportOptions, columns: list[str]) -> dict[str, str]:
    """Field -> column, for the fields that the table has.

    Raises:
        OptionError: --columns names what is not there, or there is no question or answer.
    """
    have = ", ".join(columns) or "no column"
    for field, column in options.columns.items():
        if field not in FIELDS:
            raise OptionError(f"--columns {field}={column}: {field} is not one of {', '.join(FIELDS)}")
        if column not in columns:
            raise OptionError(f"--columns {field}={column}: {options.source} has {have}")
    found = {field: options.columns.get(field, field) for field in FIELDS}
    for field in NEEDED:
        if found[field] not in columns:
            raise OptionError(f"--columns: {options.source} has no {field}; say {field}=COLUMN, one of {have}")
    return {field: column for field, column in found.items() if column in columns}
