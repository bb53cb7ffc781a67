"""Learning from pairs of answers, a chosen and a rejected one: DPO, ORPO and SimPO as objectives of the loop.

    DPO    -log s(beta (c - r)), where c and r are each answer's log-probability less the reference's
           (Rafailov et al. 2023, arXiv 2305.18290, equation 7)
    ORPO   -c - beta log s(o(c) - o(r)), where c and r are means over an answer's tokens and o(x) = x - log(1 - e^x)
           (Hong, Lee and Thorne 2024, arXiv 2403.07691, equations 6 and 7; beta is their lambda)
    SimPO  -log s(beta (c - r) - gamma), where c and r are means over an answer's tokens
           (Meng, Xia and Chen 2024, arXiv 2405.14734, equation 6)

s is the logistic function; an answer's log-probability is the sum over its tokens, the end of the answer among them.
Each is a mean over pairs. The reference is what reference.py keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from trainer.config.training import TrainOptions
from trainer.model.pairs import Owners, PairLikelihoods


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of a set of pairs, and the log-probability of each of their tokens by the reference, where one is.

    `reference` (answer tokens,) is in the order of `Tokens.answer_owners`, in nats.
    """

    owners: Owners
    reference: torch.Tensor | None = None


class Preference:
    """The objective that `options.method` names, over the pairs of training and those held out.

    Figures, means over pairs: `preference`, the share whose chosen answer has the higher reward; `margin`, by how much;
    `chosen` and `rejected`, the rewards themselves, which are the terms that beta multiplies in the formulas above, and
    beta times them; and with a reference `kl`, see `divergence`.
    """

    def __init__(self, options: TrainOptions, trained: Answers, held_out: Answers) -> None:
        self._options = options
        self._trained, self._held_out = trained, held_out

    def count(self, inputs: dict[str, Any]) -> torch.Tensor:
        """The number of pairs in the batch, which the loss is divided by."""
        return torch.full_like(inputs["answers"], inputs["rows"])

    def __call__(
        self, model: Any, forest: dict[str, torch.Tensor], held_out: bool = False
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """See `Objective`."""
        answers, numbers = self._held_out if held_out else self._trained, forest["numbers"]
        log_probs = model(**forest, each=True)
        said, against = answers.owners.likelihoods(log_probs, numbers), None
        figures = dict[str, torch.Tensor]()
        if answers.reference is not None:
            known = answers.reference[numbers]
            against = answers.owners.likelihoods(known, numbers)
            divergences = answers.owners.likelihoods(divergence(log_probs.detach(), known), numbers)
            figures["kl"] = divergences.means.mean(1).sum()
        figures |= _figures(rewards(said, against, self._options).detach())
        return losses(said, against, self._options).sum(), figures


def rewards(said: PairLikelihoods, reference: PairLikelihoods | None, options: TrainOptions) -> torch.Tensor:
    """Rewards, (pairs, 2), chosen and rejected: beta times each answer's log-probability less the reference's.

    Without a reference beta times the mean log-probability of an answer's tokens.
    """
    if reference is not None:
        return options.strength * (said.log_probs - reference.log_probs)
    return options.strength * said.means


def losses(said: PairLikelihoods, reference: PairLikelihoods | None, options: TrainOptions) -> torch.Tensor:
    """The loss of each pair, (pairs,); `--sft-weight` times the chosen answer's loss a token is added."""
    chosen, rejected = rewards(said, reference, options).unbind(1)
    likelihood = -said.means[:, 0]
    if options.method == "orpo":
        odds = said.means - torch.log1p(-said.means.clamp(max=-1e-6).exp())
        return likelihood - options.strength * logsigmoid(odds[:, 0] - odds[:, 1])
    gamma = options.gamma if options.method == "simpo" else 0.0
    return options.sft_weight * likelihood - logsigmoid(chosen - rejected - gamma)


def divergence(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the model from its reference at each answer token, (answer tokens,), in nats.

    It is that between "this token" and "any other", the least that the divergence over the whole vocabulary can be
    (data processing inequality; Cover and Thomas, Elements of Information Theory, section 2.8).
    """
    ours, theirs = (each.clamp(max=-1e-6) for each in (log_probs, reference))
    other, their_other = (torch.log1p(-each.exp()) for each in (ours, theirs))
    return ours.exp() * (ours - theirs) + other.exp() * (other - their_other)


def _figures(rewarded: torch.Tensor) -> dict[str, torch.Tensor]:
    chosen, rejected = rewarded.unbind(1)
    return {
        "preference": (chosen > rejected).float().sum(),
        "margin": (chosen - rejected).sum(),
        "chosen": chosen.sum(),
        "rejected": rejected.sum(),
    }
