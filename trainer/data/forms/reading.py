"""How rows are to be read: what the options --form, --strict, --ignore, --columns and the like say."""

from dataclasses import dataclass, field

from trainer.config.reading import Form, ReadingOptions


@dataclass(frozen=True, slots=True)
class Reading:
    """`form` is the form of the file, or "auto": it is recognised. `strict` makes all that is mended a fault.

    `ignore` are keys that need not be understood. `columns` maps a row's field to the key that holds it.
    `annotations` is the file of answers of VQAv2's form. `split` is the one to read of a set that has several.
    """

    form: Form = "auto"
    strict: bool = False
    ignore: frozenset[str] = frozenset()
    columns: dict[str, str] = field(default_factory=dict)
    annotations: str | None = None
    split: str | None = None

    @classmethod
    def of(cls, options: ReadingOptions) -> "Reading":
        """What a command's options say."""
        return cls(
            options.form,
            options.strict,
            frozenset(options.ignore),
            dict(options.columns),
            options.annotations,
            options.split,
        )


AUTO = Reading()
