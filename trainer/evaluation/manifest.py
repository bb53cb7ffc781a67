"""What the manifest of a version says of its adapter: how it was made, what it gains, and its probes."""

from dataclasses import replace

from service.adapters.manifest import Manifest, Score
from service.members import MEMBERS, member_of
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
    mixture: bool = False,
) -> Manifest:
    """The manifest of an adapter that `trial` compared with its base; scores are given where rows were `held_out`.

    Raises:
        NoGain: every answer of it, or of a member of a `mixture`, is the base's.
    """
    parts = {member: _part(trial, member) for member in MEMBERS} if mixture else {"": trial}
    return Manifest(
        format=2 if mixture else 1,
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
        probes=tuple(
            probe
            for member, part in parts.items()
            for probe in choose_probes(
                part.rows, part.base, part.adapter, checkpoint.prompt, checkpoint.preparation, member
            )
        ),
    )


def _part(trial: Trial, member: str) -> Trial:
    """A trial of the rows alone that a member answers."""
    places = [place for place, row in enumerate(trial.rows) if member_of(int(row.image is not None)) == member]
    return replace(
        trial,
        rows=tuple(trial.rows[place] for place in places),
        base=tuple(trial.base[place] for place in places),
        adapter=tuple(trial.adapter[place] for place in places),
    )
