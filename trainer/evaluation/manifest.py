"""What the manifest of a version says of its adapter: how it was made, what it gains, and its probes."""

from service.adapters.manifest import Manifest, Score
from trainer.adapter.version import now
from trainer.config.evaluation import PublishOptions
from trainer.config.training import TrainOptions
from trainer.evaluation.comparison import Trial
from trainer.evaluation.probes import choose_probes
from trainer.model.checkpoint import Checkpoint


def manifest_of(
    options: TrainOptions | PublishOptions,
    checkpoint: Checkpoint,
    trial: Trial,
    *,
    trainer: str,
    rank: int,
    alpha: float,
    targets: str,
    data_digest: str,
    held_out: bool = True,
    begun_from: str = "",
) -> Manifest:
    """The manifest of an adapter that `trial` compared with its base; scores are given where rows were `held_out`.

    Raises:
        NoGain: every answer is the base's.
    """
    return Manifest(
        name=options.name,
        about=options.about,
        created=now(),
        trainer=trainer,
        **checkpoint.facts,
        rank=rank,
        alpha=alpha,
        targets=targets,
        modality=options.modality,
        data_digest=data_digest,
        score=trial.score if held_out else Score(rows=0, base=0, adapter=0),
        categories=trial.categories if held_out else {},
        gate=trial.gate if held_out else None,
        begun_from=begun_from,
        probes=choose_probes(trial.rows, trial.base, trial.adapter, checkpoint.prompt, checkpoint.preparation),
    )
