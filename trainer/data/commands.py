"""The `data` commands: options -> what the command line prints. Each command is imported when it runs."""

from importlib import import_module

from trainer.data import config

# The function that takes the options, by their class.
COMMANDS: dict[type, str] = {
    config.CheckOptions: "trainer.data.check:check",
    config.ReportOptions: "trainer.data.report:report",
    config.DedupeOptions: "trainer.data.dedupe:dedupe",
    config.SplitOptions: "trainer.data.split:split_file",
    config.FilterOptions: "trainer.data.filter:filter_rows",
    config.ImportOptions: "trainer.data.import_:import_rows",
    config.MixOptions: "trainer.data.mix:mix",
    config.ChartOptions: "trainer.data.charts:make",
    config.AnnotationOptions: "trainer.data.annotations:annotations",
    config.ScoreOptions: "trainer.data.curation.score:score",
    config.CaptionOptions: "trainer.data.curation.written:caption",
    config.QuestionOptions: "trainer.data.curation.written:questions",
    config.BalanceOptions: "trainer.data.curation.balance:balance",
}


def run(options: object) -> str:
    """Run one command and say what came of it.

    Raises:
        TrainerError: options or files that cannot be followed.
    """
    module, _, function = COMMANDS[type(options)].partition(":")
    return str(getattr(import_module(module), function)(options))
