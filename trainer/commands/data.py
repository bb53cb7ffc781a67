"""The `data` commands: options -> what the command line prints. Each command is imported when it runs."""

from importlib import import_module

from trainer.config import data

# The function that takes the options, by their class.
COMMANDS: dict[type, str] = {
    data.CheckOptions: "trainer.data.check:check",
    data.ReportOptions: "trainer.data.report:report",
    data.DedupeOptions: "trainer.data.dedupe:dedupe",
    data.SplitOptions: "trainer.data.split:split_file",
    data.FilterOptions: "trainer.data.filter:filter_rows",
    data.ImportOptions: "trainer.data.import_:import_rows",
    data.MixOptions: "trainer.data.mix:mix",
    data.ChartOptions: "trainer.data.charts:make",
    data.AnnotationOptions: "trainer.data.annotations:annotations",
    data.ScoreOptions: "trainer.data.curation.score:score",
    data.CaptionOptions: "trainer.data.curation.written:caption",
    data.QuestionOptions: "trainer.data.curation.written:questions",
    data.BalanceOptions: "trainer.data.curation.balance:balance",
}


def run(options: object) -> str:
    """Run one command and say what came of it.

    Raises:
        TrainerError: options or files that cannot be followed.
    """
    module, _, function = COMMANDS[type(options)].partition(":")
    return str(getattr(import_module(module), function)(options))
