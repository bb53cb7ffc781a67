"""Stage 0: the vision tower learns to say, for every patch, what thing it lies on. The heads are thrown away after.

A LLaVA from scratch does not learn to see from answers alone (it settles on the language prior), and a tower taught by
one label a picture needs many pictures. We drew the pictures, so every patch can be told its thing: kind, colour,
character and box. That is 64 lessons a picture, and it is what the projector will be asked for.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import CLIPVisionModel

from models.optimise import Optimiser
from models.recipe import IMAGE_MEAN, IMAGE_STD, PATCH, SIDE, vision_config
from models.scenes import CHARTS, COLOURS, GLYPHS, SHAPES, Scene, draw
from service.images import Preparation

log = logging.getLogger(__name__)

KINDS = ("none", *SHAPES, "glyph", *CHARTS)
COLOUR_NAMES = tuple(COLOURS)
GRID = SIDE // PATCH
PREPARATION = Preparation(SIDE, tuple(round(channel * 255) for channel in IMAGE_MEAN))  # type: ignore[arg-type]


class Scenes(IterableDataset[tuple[Tensor, ...]]):
    """Endless batches of prepared scenes and what each patch lies on, the same for the same seed."""

    def __init__(self, batch: int, steps: int, seed: int) -> None:
        self.batch, self.steps, self.seed = batch, steps, seed

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for step in range(self.steps):
            rng = np.random.default_rng((self.seed, step))
            scenes = [draw(rng) for _ in range(self.batch)]
            pixels = np.stack([np.asarray(PREPARATION.apply(scene.image)) for scene in scenes])
            labels = [patch_labels(scene) for scene in scenes]
            yield torch.from_numpy(pixels), *(torch.from_numpy(np.stack(part)) for part in zip(*labels, strict=True))


def normalise(pixels: Tensor) -> Tensor:
    """As CLIP's processor does: (pictures, side, side, 3) in 0 to 255 -> (pictures, 3, side, side)."""
    mean, std = (torch.tensor(channels)[:, None, None] * 255 for channels in (IMAGE_MEAN, IMAGE_STD))
    return (pixels.permute(0, 3, 1, 2).float() - mean) / std


def patch_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """What each patch lies on: classes (patches, 3: kind, colour, character) and boxes (patches, 4), row by row.

    A thing claims a patch when it covers a quarter of the patch or a quarter of itself lies there; smaller things win.
    """
    classes = np.full((GRID * GRID, 3), -1, np.int64)
    classes[:, 0] = 0
    boxes = np.zeros((GRID * GRID, 4), np.float32)
    edges = np.arange(GRID) / GRID
    for thing in sorted(scene.things, key=lambda thing: -thing.size):
        left, top, right, bottom = _padded(thing.box, scene.image.size)
        across = np.clip(np.minimum(edges + 1 / GRID, right) - np.maximum(edges, left), 0, None)
        down = np.clip(np.minimum(edges + 1 / GRID, bottom) - np.maximum(edges, top), 0, None)
        smaller = min((right - left) * (bottom - top), 1 / GRID**2)
        claimed = (np.outer(down, across) > 0.25 * smaller).reshape(-1)
        glyph = GLYPHS.index(thing.glyph) if thing.glyph else -1
        classes[claimed] = KINDS.index(thing.kind), COLOUR_NAMES.index(thing.colour), glyph
        boxes[claimed] = left, top, right, bottom
    return classes, boxes


def _padded(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box of a picture as a box of its padded square."""
    long = max(size)
    x, y = (long - size[0]) / 2 / long, (long - size[1]) / 2 / long
    w, h = size[0] / long, size[1] / long
    return box[0] * w + x, box[1] * h + y, box[2] * w + x, box[3] * h + y


def whiten(tower: CLIPVisionModel, pixels: Tensor) -> None:
    """Set the patch embedding to the leading principal components of real patches, each scaled to unit variance.

    Drawn pictures are mostly flat ground: with random weights every patch looks alike at first and edges drown.
    """
    patches = functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    patches = patches[patches.std(1) > 0.02]
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    weight = tower.embeddings.patch_embedding.weight
    leading = vectors[:, -len(weight) :] / (values[-len(weight) :] + 1e-3).sqrt()
    weight.data.copy_(leading.T.flip(0).reshape(weight.shape))


def mimic(tower: CLIPVisionModel) -> None:
    """Start attention where trained vision transformers end up: looking near, and subtracting what is there already.

    Trockman and Kolter 2023, Mimetic Initialization of Self-Attention Layers: query-key products near the identity
    over sinusoidal positions, value-output products near its negative; 0.7 and 0.4 are theirs.
    """
    size = tower.config.hidden_size
    embedding = tower.embeddings.position_embedding.weight.data
    embedding[1:] = _sinusoids(size)
    heads, width = tower.config.num_attention_heads, size // tower.config.num_attention_heads
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        for head in range(heads):
            rows = slice(head * width, (head + 1) * width)
            left, right = _factors(0.7, size, width)
            attention.q_proj.weight.data[rows], attention.k_proj.weight.data[rows] = left.T, right.T
        left, right = _factors(-0.4, size, size)
        attention.out_proj.weight.data.copy_(left)
        attention.v_proj.weight.data.copy_(right.T)


def _factors(identity: float, size: int, rank: int) -> tuple[Tensor, Tensor]:
    """Two (size, rank) factors of a random matrix plus `identity` times the identity."""
    left, values, right = torch.linalg.svd(
        abs(identity) * torch.randn(size, size) / size**0.5 + identity * torch.eye(size)
    )
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root


def _sinusoids(size: int) -> Tensor:
    """Positions of the patches, (patches, size): half the channels for rows, half for columns."""
    waves = torch.exp(-torch.arange(size // 4) / (size // 4) * np.log(100.0))
    angles = torch.arange(GRID)[:, None] * waves
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = line.repeat_interleave(GRID, 0), line.repeat(GRID, 1)
    return torch.cat([rows, columns], dim=1)


class TaughtTower(nn.Module):
    """The tower's layers that LLaVA uses, with a head for each lesson."""

    def __init__(self) -> None:
        super().__init__()
        config = vision_config()
        config.num_hidden_layers -= 1  # LLaVA takes the hidden state before the last layer
        self.tower = CLIPVisionModel(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        sizes = {"kind": len(KINDS), "colour": len(COLOUR_NAMES), "glyph": len(GLYPHS), "box": 4}
        self.heads = nn.ModuleDict({name: nn.Linear(config.hidden_size, size) for name, size in sizes.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Lessons' outputs for pixels of shape (pictures, side, side, 3), 0 to 255; each (pictures, patches, size)."""
        hidden = self.norm(self.tower(pixel_values=normalise(pixels)).last_hidden_state[:, 1:])
        return {name: head(hidden).float() for name, head in self.heads.items()}


def lesson_loss(said: dict[str, Tensor], classes: Tensor, boxes: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The sum of the lessons' losses, and how many patches of things got their class right."""
    kind, colour, glyph = classes.unbind(-1)
    thing = kind > 0
    weight = torch.ones(len(KINDS))
    weight[0] = 0.15
    loss = functional.cross_entropy(said["kind"].flatten(0, 1), kind.flatten(), weight)
    loss = loss + functional.cross_entropy(said["colour"][thing], colour[thing])
    character = glyph >= 0
    loss = loss + functional.cross_entropy(said["glyph"][character], glyph[character])
    loss = loss + 4 * functional.smooth_l1_loss(said["box"][thing], boxes[thing], beta=0.05)
    right = {
        "kind": (said["kind"].argmax(-1) == kind)[thing & ~character].float().mean().item(),
        "colour": (said["colour"].argmax(-1) == colour)[thing].float().mean().item(),
        "glyph": (said["glyph"].argmax(-1) == glyph)[character].float().mean().item(),
    }
    return loss, right


def train_tower(steps: int, batch: int, seed: int, save: Path) -> CLIPVisionModel:
    """Teach a tower on `steps` batches of new scenes and keep it in `save`; returns it with its last layer untaught."""
    torch.manual_seed(seed)
    model = TaughtTower().train()
    mimic(model.tower)
    some = normalise(next(iter(Scenes(512, 1, seed)))[0])
    whiten(model.tower, some)
    optimiser = Optimiser(model.named_parameters(), steps, muon=0.02, adamw=1.5e-3)
    loader = DataLoader(Scenes(batch, steps, seed), batch_size=None, num_workers=1, prefetch_factor=4)
    with tqdm(loader, total=steps, desc="tower", unit="step", mininterval=5) as progress:
        for step, (pixels, classes, boxes) in enumerate(progress):
            with torch.autocast("cpu", torch.bfloat16):
                said = model(pixels)
            loss, right = lesson_loss(said, classes, boxes)
            optimiser.step(loss)
            progress.set_postfix({"loss": f"{loss:.3f}"} | {name: f"{share:.2f}" for name, share in right.items()})
            if step % 200 == 199 or step == steps - 1:
                torch.save(model.tower.state_dict(), save)
    tower = load_tower(save, seed)
    settle(tower, some)
    torch.save(tower.state_dict(), save)
    return tower


def settle(tower: CLIPVisionModel, pixels: Tensor) -> None:
    """Divide the states that LLaVA takes so that real patches' have unit variance; what the layers compute stays.

    A pre-norm tower's states grow as it learns (to 14 here). The projector reads them as they are: after stage 1 on
    them, seven hundred steps of stage 2 left colours guessed.
    """
    with torch.inference_mode():
        states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        size = states.flatten(0, 1).std(0).square().mean().sqrt().item()
    writers = [module for layer in tower.encoder.layers for module in (layer.self_attn.out_proj, layer.mlp.fc2)]
    for module in (tower.pre_layrnorm, *writers):
        module.weight.data /= size
        module.bias.data /= size


def load_tower(file: Path, seed: int) -> CLIPVisionModel:
    """The taught tower with the one layer more that LLaVA's configuration counts and never uses."""
    torch.manual_seed(seed)
    tower = CLIPVisionModel(vision_config())
    missing, unexpected = tower.load_state_dict(torch.load(file), strict=False)
    if unexpected or any(f"layers.{len(tower.encoder.layers) - 1}." not in key for key in missing):
        raise ValueError(f"{file} is not the tower of this recipe: {missing[:3]} {unexpected[:3]}")
    return tower
