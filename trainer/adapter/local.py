"""An adapter as the trainer meets it: found in a store or a run, judged against a base, put in front of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from peft import PeftModel
from pydantic import ValidationError

from service.adapters import manifest as manifests
from service.adapters.base import Base
from service.adapters.manifest import Manifest
from service.adapters.modules import CONFIG, WEIGHTS, check_tensors, language_model_linears
from service.adapters.store import Store
from service.errors import AdapterRefused
from service.images import Preparation
from service.prompt import Prompt
from trainer.config.commands import LARGEST_RANK
from trainer.data.digests import IMAGES, listed
from trainer.errors import OptionError
from trainer.training.run import is_run, learnt


@dataclass(frozen=True, slots=True)
class Lens:
    """An adapter's name, the directory of its PEFT files, and the one that says how it came to be (often the same)."""

    name: str
    weights: Path
    origin: Path

    @classmethod
    def find(cls, name: str, store: Path, option: str = "--adapter") -> "Lens":
        """What `name` means: an adapter of the store, a directory of PEFT's files, or what a training run has learnt.

        `option` is where it was given.

        Raises:
            OptionError: none of these.
        """
        held = Store(store).names() if store.exists() else []  # it comes to be with the first that is published
        if name in held:
            path = Store(store).stable(name).path
            return cls(name, path, path)
        origin = Path(name)
        if (origin / CONFIG).is_file():
            # A run's own parts know what they were trained on by the run.
            run = next((folder for folder in origin.parents[:2] if is_run(folder)), origin)
            return cls(origin.name, origin, run)
        if is_run(origin):
            return cls(origin.name, learnt(origin), origin)
        there = ", ".join(held) or "none"
        raise OptionError(f"{option} {name}: no directory of an adapter or a run; --store {store} holds {there}")

    def judge(self, base: Path) -> None:
        """Check that this adapter fits the base checkpoint in a directory, as the service would.

        PEFT's two files are all that is read of it: a run's checkpoints hold pickles of the optimizer beside them.

        Raises:
            AdapterRefused: tensors that land nowhere, or a manifest made for another base, prompt or preparation.
        """
        with TemporaryDirectory() as alone:
            for name in (CONFIG, WEIGHTS):
                (Path(alone) / name).symlink_to((self.weights / name).resolve())
            check_tensors(Path(alone), language_model_linears(base), LARGEST_RANK)
        file = self.origin / manifests.FILE
        if not file.is_file():
            return
        try:
            manifest = Manifest.model_validate_json(file.read_bytes())
        except ValidationError as error:
            raise AdapterRefused("manifest", f"{file} is not a manifest: {error}") from error
        found = Base.of_checkpoint(base), Prompt(base).digest, Preparation.of_checkpoint(base)
        if difference := manifests.mismatch(manifest, *found):
            raise AdapterRefused("mismatch", f"{self.name} does not fit {base}: {difference}")

    @contextmanager
    def before(self, llava: Any) -> Iterator[Any]:
        """The same model, answering through this adapter until the block ends."""
        model = PeftModel.from_pretrained(llava, str(self.weights))
        try:
            yield model.eval().get_base_model()
        finally:
            model.unload()

    def trained_on(self, images: Mapping[str, str]) -> tuple[str, ...]:
        """Those of `images`, digests by name, that the adapter was trained on, where its origin says so."""
        file = self.origin / IMAGES
        return listed(images, file.read_text() if file.is_file() else "")
