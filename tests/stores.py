"""Adapter stores made for tests out of the repository's own adapters."""

from pathlib import Path

from service.adapters.base import Base
from service.adapters.manifest import FILE, Manifest, Probe
from service.adapters.proof import Proof
from service.adapters.store import Store
from service.engine.fake import FakeEngine
from service.prompt import Prompt
from service.types import Adapter


def files_of(adapter: Adapter) -> dict[str, bytes]:
    """A version's files, ready to be changed and published."""
    return {file.name: file.read_bytes() for file in adapter.path.iterdir()}


async def record_probes(source: Path, target: Path, prompt: Prompt, checkpoint: Path) -> Path:
    """Copy a store with its probes' answers replaced by what the fake engine says."""
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


async def _record(proof: Proof, engine: FakeEngine, adapter: Adapter, probe: Probe) -> Probe:
    base, adapted = [await proof.answer(engine, probe, who) for who in (None, adapter)]
    return probe.model_copy(update={"base_answer": base, "adapter_answer": adapted})
