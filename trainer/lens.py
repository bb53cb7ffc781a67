"""An adapter as the trainer meets it: found in a store or a run, judged against a base, put in front of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from pydantic import ValidationError

from service.adapters import manifest as manifests
from service.adapters.manifest import Manifest
from service.adapters.modules import CONFIG, check_tensors, language_model_linears
from service.adapters.store import Store
from service.errors import AdapterRefused
from trainer.config import LARGEST_RANK
from trainer.data.digests import IMAGES, listed
from trainer.data.rows import Row
from trainer.errors import OptionError
from trainer.features import Features
from trainer.model import Checkpoint
from trainer.predict import Prediction, predict


@dataclass(frozen=True, slots=True)
class Lens:
    """An adapter's name, the directory of its PEFT files, and the one that says how it came to be (often the same)."""

    name: str
    weights: Path
    origin: Path

    @classmethod
    def find(cls, name: str, store: Path) -> "Lens":
        """What `name` means: an adapter of the store, a directory of PEFT's files, or a training run's last state.

        Raises:
            OptionError: none of these.
        """
        if name in Store(store).names():
            path = Store(store).stable(name).path
            return cls(name, path, path)
        origin = Path(name)
        states = {int(path.name.rpartition("-")[2]): path for path in origin.glob("checkpoints/checkpoint-*[0-9]")}
        for path in (origin, *(states[step] for step in sorted(states, reverse=True))):
            if (path / CONFIG).is_file():
                return cls(origin.name, path, origin)
        held = ", ".join(Store(store).names()) or "none"
        raise OptionError(f"--adapter {name}: no directory of an adapter or a run; --store {store} holds {held}")

    def judge(self, checkpoint: Checkpoint) -> None:
        """Check that this adapter fits a base, as the service would.

        Raises:
            AdapterRefused: tensors that land nowhere, or a manifest made for another base, prompt or preparation.
        """
        check_tensors(self.weights, language_model_linears(checkpoint.path), LARGEST_RANK)
        file = self.origin / manifests.FILE
        if not file.is_file():
            return
        try:
            manifest = Manifest.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise AdapterRefused("manifest", f"{file} is not a manifest: {error}") from error
        difference = manifests.mismatch(manifest, checkpoint.base, checkpoint.prompt.digest, checkpoint.preparation)
        if difference:
            raise AdapterRefused("mismatch", f"{self.name} does not fit {checkpoint.path}: {difference}")

    @contextmanager
    def before(self, llava: Any) -> Iterator[Any]:
        """The same model, answering through this adapter until the block ends."""
        model = PeftModel.from_pretrained(llava, str(self.weights))
        try:
            yield model.eval().get_base_model()
        finally:
            model.unload()

    def answers(
        self, checkpoint: Checkpoint, rows: Sequence[Row], features: Features
    ) -> tuple[list[Prediction], list[Prediction]]:
        """What the base and this adapter answer to `rows`, as far as the service asks probes."""
        asked = list(rows)
        base = predict(checkpoint.model, checkpoint.prompt, asked, features, "base answers")
        with self.before(checkpoint.model) as llava:
            return base, predict(llava, checkpoint.prompt, asked, features, "adapter answers")

    def trained_on(self, images: Mapping[str, str]) -> tuple[str, ...]:
        """Those of `images`, digests by name, that the adapter was trained on, where its origin says so."""
        file = self.origin / IMAGES
        return listed(images, file.read_text() if file.is_file() else "")
