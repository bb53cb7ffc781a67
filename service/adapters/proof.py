"""Decides whether a version may serve: checks its files, then asks the running engine the probes of its manifest."""

import base64
import hashlib
import json
import uuid
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from service.adapters import manifest as manifests
from service.adapters.base import Base
from service.adapters.manifest import PROBE_TOKENS, Manifest, Probe
from service.adapters.modules import Shapes, check_tensors, language_model_linears, read_small
from service.engine import Engine
from service.errors import AdapterRefused
from service.images import Preparation, picture
from service.members import members
from service.prompt import Prompt
from service.types import Adapter, Query, Sampling

# Bytes of the largest manifest that is read; one has a few probes with a picture each, of 10 KB.
_MOST_MANIFEST = 32_000_000


@dataclass(frozen=True)
class Proof:
    """What adapters are checked against: one base, prompt, image preparation and largest rank.

    `linears` are the base's modules by `modules.language_model_linears`. With `unproven`, adapters without a manifest
    may serve.
    """

    base: Base
    prompt: Prompt
    preparation: Preparation
    linears: Shapes
    max_rank: int
    unproven: bool = False

    @classmethod
    def for_checkpoint(
        cls, checkpoint: Path, base: Base, prompt: Prompt, max_rank: int, unproven: bool = False
    ) -> "Proof":
        """Read what adapters are checked against from the base's checkpoint directory; it blocks."""
        preparation = Preparation.of_checkpoint(checkpoint)
        return cls(base, prompt, preparation, language_model_linears(checkpoint), max_rank, unproven)

    def key(self, engine: str) -> str:
        """SHA-256, in hex, of all that a verdict depends on beside the version; `engine` is the engine's build."""
        facts = [
            self.base.digest,
            self.base.precision,
            self.prompt.digest,
            manifests.preparation_facts(self.preparation),
        ]
        said = json.dumps([*facts, self.max_rank, self.unproven, PROBE_TOKENS, engine])
        return hashlib.sha256(said.encode()).hexdigest()

    def examine(self, adapter: Adapter) -> Manifest | None:
        """Check a version's files without the engine; it blocks. Returns its manifest; None: it needs none.

        Raises:
            AdapterRefused: reasons `no_manifest`, `manifest`, `mismatch`, and those of `check_tensors`.
            OSError: the files cannot be read now, which says nothing of what they hold.
        """
        manifest = self._manifest(adapter)
        if manifest and (difference := manifests.mismatch(manifest, self.base, self.prompt.digest, self.preparation)):
            raise AdapterRefused("mismatch", f"{adapter.key[:48]} does not fit this service: {difference}")
        parts = members(adapter.path)
        if manifest and (manifest.format == 2) != (len(parts) > 1):
            said = f"{adapter.key[:48]} has {len(parts)} LoRAs, which is not format {manifest.format} of its manifest"
            raise AdapterRefused("manifest", said)
        for folder in parts.values():
            check_tensors(folder, self.linears, self.max_rank)
        return manifest

    async def ask(self, engine: Engine, adapter: Adapter, manifest: Manifest) -> None:
        """Ask a loaded adapter its probes: it must answer each as recorded, which is otherwise than the base.

        Raises:
            AdapterRefused: reason `no_effect` where it answers as the base does, `probe` where it answers otherwise
                than recorded. The caller tries such a version again: the engine may have been at fault.
        """
        for probe in manifest.probes:
            said, asked = await self.answer(engine, probe, adapter), repr(probe.question)
            if said == probe.adapter_answer:
                continue
            if said == await self.answer(engine, probe, None):
                raise AdapterRefused("no_effect", f"{adapter.name} answers {asked} as the base does: {said!r}")
            recorded = repr(probe.adapter_answer)
            raise AdapterRefused("probe", f"{adapter.name} answers {asked} with {said!r}, its trainer saw {recorded}")

    async def answer(self, engine: Engine, probe: Probe, adapter: Adapter | None) -> str:
        """The engine's greedy answer to a probe through `adapter` (None: the base), in at most `probe.tokens` tokens.

        Raises: what `Engine.generate` raises.
        """
        pictures = (picture(base64.b64decode(probe.image_png), self.preparation),) if probe.image_png else ()
        token_ids = self.prompt.encode(probe.question, len(pictures))
        query = Query(f"probe-{uuid.uuid4().hex}", token_ids, pictures, adapter, Sampling(max_tokens=probe.tokens))
        async with aclosing(engine.generate(query)) as deltas:
            return "".join([delta.text async for delta in deltas]).strip()

    def _manifest(self, adapter: Adapter) -> Manifest | None:
        file = adapter.path / manifests.FILE
        if not file.is_file():
            if self.unproven:
                return None
            raise AdapterRefused(
                "no_manifest", f"{adapter.key[:48]} has no {manifests.FILE}: no manifest, no proof that it fits"
            )
        try:
            return Manifest.model_validate_json(read_small(file, _MOST_MANIFEST))
        except ValueError as error:  # pydantic's own too
            raise AdapterRefused("manifest", f"{file} is not a manifest: {error}") from error
