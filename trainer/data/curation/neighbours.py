"""Vectors of pictures -> which are near which: by FAISS where it is installed and the set is large, else exactly."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
from scipy.cluster.vq import kmeans2

# Numbers kept of a vector: 150,000 pictures take 77 MB.
WIDTH = 128
# Of fewer pictures the mean is not subtracted, being too uncertain; and vectors that the directions are chosen by.
_LEAST_FOR_MEAN, _FITTED = 100, 10_000
# From here on an exact search takes minutes; products that are held at once.
_LARGE, _PRODUCTS = 50_000, 16_000_000


class Space:
    """Unit vectors of images by name, reduced to at most 128 numbers: centred, in their main directions (PCA).

    Centred, since the vectors of one domain's pictures have a large part in common, and what they differ in has to
    count.
    """

    def __init__(self, found: Iterable[tuple[str, np.ndarray]]) -> None:
        """Reduce vectors as they come: the first 10,000 choose the directions."""
        self.places: dict[str, int] = {}
        blocks: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        directions: tuple[np.ndarray, np.ndarray] | None = None
        for name, vector in found:
            self.places[name] = len(self.places)
            waiting.append(vector)
            if len(waiting) == _FITTED:
                directions = directions or _directions(np.stack(waiting))
                blocks.append(_reduced(np.stack(waiting), *directions))
                waiting = []
        if waiting:
            directions = directions or _directions(np.stack(waiting))
            blocks.append(_reduced(np.stack(waiting), *directions))
        self.vectors = np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)

    @property
    def names(self) -> list[str]:
        """The images' names; a neighbour's number is an index into them."""
        return list(self.places)

    def nearest(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and places of each picture's `count` nearest others, nearest first: two arrays (pictures, count)."""
        count = min(count, max(len(self.vectors) - 1, 0))
        if not count:
            return np.zeros((len(self.vectors), 0), np.float32), np.zeros((len(self.vectors), 0), np.int64)
        if len(self.vectors) > _LARGE and find_spec("faiss"):
            return _without_itself(*_faiss(self.vectors, count + 1))
        return _without_itself(*_exact(self.vectors, count + 1))

    def clusters(self, count: int, seed: int) -> np.ndarray:
        """The number of each picture's cluster, (pictures,): by k-means++ on 20,000 pictures at most."""
        rng = np.random.default_rng(seed)
        chosen = self.vectors[rng.permutation(len(self.vectors))[: 2 * _FITTED]]
        centres, _ = kmeans2(chosen, min(count, len(chosen)), minit="++", rng=rng)
        blocks = (self.vectors[start : start + _FITTED] for start in range(0, len(self.vectors), _FITTED))
        half = (centres**2).sum(axis=1) / 2
        return np.concatenate([(block @ centres.T - half).argmax(axis=1) for block in blocks])


def _directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean that is taken away, and the main directions, (width, at most 128)."""
    width = vectors.shape[1]
    mean = vectors.mean(axis=0) if len(vectors) >= _LEAST_FOR_MEAN else np.zeros(width, np.float32)
    if width <= WIDTH:
        return mean, np.eye(width, dtype=np.float32)
    centred = (vectors - mean).astype(np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    return mean, directions[:, -WIDTH:].astype(np.float32)


def _reduced(vectors: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> np.ndarray:
    reduced = (vectors - mean) @ directions
    length = np.linalg.norm(reduced, axis=1, keepdims=True)
    return np.asarray(reduced / np.maximum(length, 1e-9), np.float32)


def _exact(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    cosines, places = [], []
    block = max(1, _PRODUCTS // len(vectors))
    for start in range(0, len(vectors), block):
        products = vectors[start : start + block] @ vectors.T
        chosen = np.argpartition(-products, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(products, chosen, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        cosines.append(np.take_along_axis(found, order, axis=1))
        places.append(np.take_along_axis(chosen, order, axis=1))
    return np.concatenate(cosines), np.concatenate(places)


def _faiss(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    index: Any = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = max(64, 2 * count)
    index.add(vectors)
    cosines, places = index.search(vectors, count)
    return cosines, places


def _without_itself(cosines: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One column less: each picture's own, wherever equal ones have put it, or else the farthest."""
    own = places == np.arange(len(places))[:, None]
    own[~own.any(axis=1), -1] = True
    shape = (len(places), places.shape[1] - 1)
    return cosines[~own].reshape(shape), places[~own].reshape(shape)
