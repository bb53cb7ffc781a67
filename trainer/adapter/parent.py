"""The adapter that a training goes on from (--init-adapter): found, checked, and described for its successor."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.adapters import manifest as manifests
from service.adapters.manifest import Gate, Manifest
from service.adapters.modules import WEIGHTS
from trainer.adapter.find import find
from trainer.adapter.local import LocalAdapter
from trainer.config.training import TrainOptions
from trainer.data.digests import IMAGES
from trainer.data.row import Row
from trainer.errors import OptionError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parent:
    """The adapter that `--init-adapter` names: training goes on from its weights."""

    adapter: LocalAdapter

    @classmethod
    def of(cls, options: TrainOptions, base: Path, output: Path) -> "Parent | None":
        """The adapter that the options name, if any, for the base checkpoint in a directory; `output` is the run's.

        Raises:
            OptionError: it is not there, or lies in the run's own directory.
            AdapterRefused: it does not fit the base.
        """
        if options.init_adapter is None:
            return None
        adapter = find(options.init_adapter, options.store, "--init-adapter")
        if output.resolve() in adapter.weights.resolve().parents:
            raise OptionError(
                f"--init-adapter {options.init_adapter}: lies in {output}, where this run is to write: give another"
                " --name or --output"
            )
        adapter.single("--init-adapter")
        adapter.check_fits(base)
        return cls(adapter)

    @property
    def _sha256(self) -> str:
        return hashlib.sha256((self.adapter.weights / WEIGHTS).read_bytes()).hexdigest()

    @property
    def facts(self) -> dict[str, str]:
        """The facts that must be the same when a run is resumed."""
        return {"init-adapter": self._sha256}

    def described(self, found: Gate) -> str:
        """A description for its successor's manifest and card; `found.base` is its measure on that one's rows."""
        measured = f", here {found.metric} {found.base:.4g}"
        file = self.adapter.origin / manifests.FILE
        if not file.is_file():
            return f"{self.adapter.name} (weights {self._sha256[:12]}{measured})"
        manifest = Manifest.model_validate_json(file.read_bytes())
        score = manifest.score
        held_out = f", {score.adapter} of {score.rows} held-out rows right" if score.rows else ""
        version = f"{manifest.name}@{self.adapter.weights.name[:12]}"
        return f"{version} (data {manifest.data_digest[:12]}{held_out}{measured})"

    def images(self, images: str, held_out: Sequence[Row], digests: Mapping[str, str]) -> str:
        """The image list of what both it and its successor, which has the list `images`, were trained on.

        A warning names held-out images that it was trained on: the score on them is too good.
        """
        asked = {row.image: digests[row.image] for row in held_out if row.image}
        if seen := self.adapter.trained_on(asked):
            log.warning(
                "%s was trained on %d of %d held-out images, %s first: the score flatters; --eval-data with others"
                " would not",
                *(self.adapter.name, len(seen), len(asked), seen[0]),
            )
        file = self.adapter.origin / IMAGES
        before = file.read_text().splitlines() if file.is_file() else []
        return "".join(f"{line}\n" for line in sorted({*images.splitlines(), *before}))
