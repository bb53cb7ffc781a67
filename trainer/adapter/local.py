"""An adapter on this disk: checked against a base, put on it to answer, and the images that it was trained on."""

from collections.abc import Iterator, Mapping, Sequence
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
from service.adapters.modules import check_tensors, language_model_linears
from service.calibration import FILE, Calibration, read_calibration
from service.errors import AdapterRefused
from service.images import Preparation
from service.members import CONFIG, WEIGHTS, member_of, members
from service.prompt import Prompt
from trainer.config.fields import LARGEST_RANK
from trainer.data.digests import IMAGES, listed
from trainer.data.row import Row
from trainer.errors import OptionError


@dataclass(frozen=True, slots=True)
class LocalAdapter:
    """An adapter's name, the directory of its PEFT files, and the one that says how it came to be (often the same).

    A mixture's directory has a folder for each member.
    """

    name: str
    weights: Path
    origin: Path

    def check_fits(self, base: Path) -> None:
        """Check that this adapter fits the base checkpoint in a directory, as the service would.

        PEFT's two files are all that is read of it: a run's checkpoints hold pickles of the optimizer beside them.

        Raises:
            AdapterRefused: tensors that fit no module of the base, or a manifest made for another base, prompt or
                preparation.
        """
        for folder in members(self.weights).values():
            with TemporaryDirectory() as alone:
                for name in (CONFIG, WEIGHTS):
                    (Path(alone) / name).symlink_to((folder / name).resolve())
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

    def single(self, option: str) -> Path:
        """The folder of its one LoRA.

        Raises:
            OptionError: it is a mixture, which has two; the message names `option`.
        """
        folders = members(self.weights)
        if len(folders) > 1:
            each = " or ".join(str(folder) for folder in folders.values())
            raise OptionError(f"{option} {self.name}: is a mixture of two LoRAs: name one of them, {each}")
        return self.weights

    def by_member(self, rows: Sequence[Row]) -> dict[str, list[int]]:
        """Places in `rows` by the member that answers them, of a plain adapter all by "".

        Members that answer none are left out. A row's image counts wherever in its conversation it is shown.
        """
        found: dict[str, list[int]] = {}
        mixture = len(members(self.weights)) > 1
        for place, row in enumerate(rows):
            found.setdefault(member_of(int(row.image is not None)) if mixture else "", []).append(place)
        return found

    @contextmanager
    def applied_to(self, llava: Any, member: str = "") -> Iterator[Any]:
        """The same model, answering through this adapter or a member of it until the block ends."""
        model = PeftModel.from_pretrained(llava, str(members(self.weights)[member]))
        try:
            yield model.eval().get_base_model()
        finally:
            model.unload()

    def calibration(self) -> Calibration | None:
        """The calibration in its version's files; None: there is none.

        Raises:
            OptionError: the file is no calibration; the service would refuse the version too.
        """
        try:
            return read_calibration(self.origin)
        except ValueError as error:
            raise OptionError(f"{self.origin / FILE} is no calibration: {error}") from error

    def trained_on(self, images: Mapping[str, str]) -> tuple[str, ...]:
        """The names of those of `images` (SHA-256 in hex by name) that it was trained on, as far as its origin says."""
        file = self.origin / IMAGES
        return listed(images, file.read_text() if file.is_file() else "")
