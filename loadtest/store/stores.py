"""Adapter stores for tests and measurements on the fake engine, made out of the repository's own adapters."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load, save

from service.adapters.base import Base
from service.adapters.manifest import FILE, Manifest, Probe
from service.adapters.modules import WEIGHTS
from service.adapters.proof import Proof
from service.adapters.store import Store, digest
from service.engine.fake import FakeEngine, sign
from service.prompt import Prompt
from service.types import Adapter


def files_of(adapter: Adapter) -> dict[str, bytes]:
    """A version's files, ready to be changed and published."""
    return {file.name: file.read_bytes() for file in adapter.path.iterdir()}


async def record_probes(source: Path, target: Path, prompt: Prompt, checkpoint: Path) -> Path:
    """Publish the stable versions of `source` to `target`, with the fake engine's answers in their probes.

    Returns `target`.
    """
    engine = FakeEngine()
    await engine.start()
    proof = Proof.for_checkpoint(checkpoint, Base.of_checkpoint(checkpoint), prompt, 64)
    for name in Store(source).names():
        adapter = Store(source).stable(name)
        await engine.load(adapter)
        manifest = Manifest.model_validate_json((adapter.path / FILE).read_bytes())
        probes = [await _record(proof, engine, adapter, probe) for probe in manifest.probes]
        rewritten = manifest.model_copy(update={"probes": tuple(probes)})
        Store(target).publish(name, files_of(adapter) | {FILE: rewritten.model_dump_json().encode()})
    return target


class Maker:
    """Makes versions that the fake engine proves, each of other weights, which the first word of its answers tells."""

    def __init__(self, source: Adapter, proof: Proof) -> None:
        self.proof = proof
        self.engine = FakeEngine()
        self._files = files_of(source)
        self._tensors = load(self._files[WEIGHTS])
        self._manifest = Manifest.model_validate_json(self._files[FILE])
        self.made: dict[str, dict[str, bytes]] = {}
        self.sign: dict[str, str] = {}
        """The first word of the fake engine's answers, by version."""

    async def make(self, label: str) -> dict[str, bytes]:
        """The files of a version; each label has a version of its own, the same each time."""
        if label not in self.made:
            self.made[label] = await self._make(label)
            self.sign[digest(self.made[label])] = sign(self.made[label][WEIGHTS])
        return self.made[label]

    async def _make(self, label: str) -> dict[str, bytes]:
        key = next(key for key in self._tensors if "lora_B" in key)
        mark = int.from_bytes(hashlib.sha256(label.encode()).digest()[:3]) / 2**20
        changed = self._tensors[key].clone()
        changed[0, 0] = mark
        files = self._files | {WEIGHTS: save(self._tensors | {key: changed})}
        with TemporaryDirectory() as directory:
            (Path(directory) / WEIGHTS).write_bytes(files[WEIGHTS])
            adapter = Adapter("made", label, Path(directory))
            await self.engine.start()
            await self.engine.load(adapter)
            probe = self._manifest.probes[0].model_copy(update={"image_png": None})
            recorded = await _record(self.proof, self.engine, adapter, probe)
            await self.engine.unload(adapter)
        return files | {FILE: self._manifest.model_copy(update={"probes": (recorded,)}).model_dump_json().encode()}


async def _record(proof: Proof, engine: FakeEngine, adapter: Adapter, probe: Probe) -> Probe:
    base, adapted = [await proof.answer(engine, probe, who) for who in (None, adapter)]
    return probe.model_copy(update={"base_answer": base, "adapter_answer": adapted})
