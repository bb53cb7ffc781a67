"""The `data` commands: options -> what the command line prints. Each command is imported when it runs."""

from trainer.data import config


def run(options: object) -> str:
    """Run one command and say what came of it.

    Raises:
        TrainerError: options or files that cannot be followed.
    """
    match options:
        case config.CheckOptions():
            from trainer.data.check import check

            return check(options)
        case config.DedupeOptions():
            from trainer.data.dedupe import dedupe

            return str(dedupe(options))
        case config.SplitOptions():
            from trainer.data.split import split_file

            return split_file(options)
        case config.FilterOptions():
            from trainer.data.filter import filter_rows

            return str(filter_rows(options))
        case config.ImportOptions():
            from trainer.data.importers import import_rows

            return str(import_rows(options))
        case config.MixOptions():
            from trainer.data.mix import mix

            return mix(options)
        case config.ChartOptions():
            from trainer.data.charts import make

            return make(options)
        case config.AnnotationOptions():
            from trainer.data.annotations import annotations

            return annotations(options)
        case _:
            raise TypeError(f"{type(options).__name__} is not a data command's")
