"""Pictures and texts -> unit vectors, by a CLIP checkpoint of transformers, or pictures alone by a LLaVA's tower.

Of a LLaVA only the tower's weights are read: memory does not hold its language model.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from service.images import decode
from trainer.data import files
from trainer.data.kept import Kept
from trainer.errors import OptionError

_BATCH = 32
_TOWER = "vision_tower."


class Embedder:
    """One checkpoint in memory, on the GPU where there is one."""

    def __init__(self, checkpoint: str) -> None:
        """Load a CLIP by its directory or Hugging Face id, or the tower of a LLaVA in a directory.

        Raises:
            OptionError: it is neither, cannot be loaded, or a LLaVA's directory lacks weights of its tower.
        """
        try:
            config = AutoConfig.from_pretrained(checkpoint)
            self._processor = AutoImageProcessor.from_pretrained(checkpoint)
        except (OSError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise OptionError(f"--model {checkpoint}: no checkpoint that can be loaded: {first}") from error
        self.reads_texts = hasattr(config, "vision_config") and config.model_type != "llava"
        self._layer = getattr(config, "vision_feature_layer", -2)
        model: Any
        if config.model_type == "llava":
            model = _tower(Path(checkpoint), config.vision_config)
        else:
            model = AutoModel.from_pretrained(checkpoint)
            if not hasattr(model, "get_image_features"):
                raise OptionError(f"--model {checkpoint}: is a {config.model_type}: a CLIP or a LLaVA is wanted")
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint) if self.reads_texts else None
        self._model = model.float().eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.digest = _digest(config, self._model)

    def pictures(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors in float32, (images, width): CLIP's image features, or the mean of a LLaVA's image tokens."""
        pixels = self._processor(images=list(images), return_tensors="pt").pixel_values.to(self._model.device)
        with torch.inference_mode():
            if self.reads_texts:
                return _unit(_pooled(self._model.get_image_features(pixel_values=pixels)))
            states = self._model(pixel_values=pixels, output_hidden_states=True).hidden_states[self._layer]
            return _unit(states.mean(dim=1))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors in float32, (texts, width), of a CLIP alone; what is longer than it reads is cut off."""
        assert self._tokenizer is not None
        longest = int(self._model.config.text_config.max_position_embeddings)
        options = {"padding": True, "truncation": True, "max_length": longest, "return_tensors": "pt"}
        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                tokens = self._tokenizer(list(texts[start : start + _BATCH]), **options).to(self._model.device)
                tokens.pop("token_type_ids", None)
                found.append(_unit(_pooled(self._model.get_text_features(**tokens))))
        return np.concatenate(found)

    def of_files(self, images: Iterable[str], folder: Path | None) -> Iterator[tuple[str, np.ndarray]]:
        """Each different image file with its vector in float32, (width,), in order; kept in `folder` for the next run.

        Vectors are kept as float16, and rounded to it where they are not kept too.

        Raises:
            DataError: a file that cannot be read.
            ServiceError: an image that does not decode; `data filter` drops those.
        """
        unique = iter(dict.fromkeys(images))
        progress = tqdm(desc="embeddings", unit="image", disable=None)
        with closing(Kept(folder, f"embeddings_{self.digest}")) as kept, progress:
            while batch := list(islice(unique, _BATCH)):
                stamps = {image: files.stamp(image) for image in batch}
                known = {image: np.frombuffer(value, np.float16) for image, value in kept.known(stamps).items()}
                if unread := [image for image in batch if image not in known]:
                    vectors = self.pictures([decode(files.read(image), side=336) for image in unread])
                    known |= zip(unread, vectors.astype(np.float16), strict=True)
                    kept.keep({image: (stamps[image], known[image].tobytes()) for image in unread})
                progress.update(len(batch))
                yield from ((image, known[image].astype(np.float32)) for image in batch)


def _pooled(features: Any) -> torch.Tensor:
    """Transformers gives the projected features as a tensor, or as an output's pooler_output."""
    found: torch.Tensor = features if isinstance(features, torch.Tensor) else features.pooler_output
    return found


def _unit(vectors: torch.Tensor) -> np.ndarray:
    return np.asarray(torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy())


def _tower(checkpoint: Path, config: Any) -> Any:
    """A LLaVA's tower with its weights."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as tensors:
                names = [name for name in tensors.keys() if _TOWER in name]  # noqa: SIM118 - not a mapping
                weights |= {name.partition(_TOWER)[2]: tensors.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise OptionError(f"--model {checkpoint}: {file.name} cannot be read: {error}") from error
    tower = AutoModel.from_config(config)
    expected = set(tower.state_dict())
    found = {name if name in expected else name.removeprefix("vision_model."): each for name, each in weights.items()}
    missing = expected - set(found) - {name for name in expected if name.endswith("position_ids")}
    if missing:
        raise OptionError(f"--model {checkpoint}: its tower lacks {len(missing)} weights, such as {min(missing)}")
    tower.load_state_dict(found, strict=False)
    return tower


def _digest(config: Any, model: Any) -> str:
    """What tells one checkpoint's vectors from another's: its configuration and the first 64 numbers of each weight."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode())
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
