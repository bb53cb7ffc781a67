"""Log-probabilities of answer tokens -> those of the two answers of each pair."""

from dataclasses import dataclass

import torch

from trainer.model.tokens import Tokens


@dataclass(frozen=True, slots=True)
class PairLikelihoods:
    """Log-probability in nats and number of tokens of each pair's two answers: (pairs, 2), the chosen first."""

    log_probs: torch.Tensor
    tokens: torch.Tensor

    @property
    def means(self) -> torch.Tensor:
        """Mean log-probability of an answer's tokens in nats, (pairs, 2): chosen, rejected."""
        return self.log_probs / self.tokens


class Owners:
    """Which answer each answer token of a set of pairs belongs to."""

    def __init__(self, tokens: Tokens, device: torch.device) -> None:
        self._owners = torch.from_numpy(tokens.answer_owners).to(device)

    def likelihoods(self, log_probs: torch.Tensor, numbers: torch.Tensor) -> PairLikelihoods:
        """Those of the pairs of a forest: `log_probs` (answer tokens,) are of the tokens `numbers`, see `Batch`.

        Pairs are in the order of their rows.
        """
        owners = self._owners[numbers]
        pairs, place = torch.unique(owners // 2, return_inverse=True)
        place = 2 * place + owners % 2
        zeros = torch.zeros(2 * len(pairs), device=log_probs.device)
        sums = zeros.index_add(0, place, log_probs.float())
        counts = zeros.index_add(0, place, torch.ones_like(log_probs, dtype=torch.float32))
        return PairLikelihoods(sums.view(-1, 2), counts.view(-1, 2))
