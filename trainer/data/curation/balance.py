"""`data balance`: no answer, category or look of pictures has more than its share; what was left out is told."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
from tqdm import tqdm

from trainer.config.data import BalanceOptions
from trainer.data.row import Row
from trainer.data.rows import rows_of
from trainer.data.write import Report, writing
from trainer.errors import OptionError

_SHOWN = 10


def balance(options: BalanceOptions) -> str:
    """Write the rows that are kept, chosen by the seed, in the order of the set; returns what was left out, in words.

    Raises:
        DataError: faulty rows, or a file that cannot be read or written.
        ServiceError: with --by cluster an image does not decode; `data filter` drops those.
        OptionError: --by cluster without --model, or a model that cannot be loaded.
    """
    name = _naming(options)
    # 1. The group of each row and, within which groups are compared, its pool; both in numbers.
    groups: dict[tuple[str, str], int] = {}
    of = np.array([groups.setdefault(name(row), len(groups)) for row in rows_of(options)], np.int32)
    # 2. How many rows of each group stay.
    sizes = np.bincount(of, minlength=len(groups))
    kept = np.zeros(len(groups), np.int64)
    pools: dict[str, list[int]] = {}
    for (pool, _), group in groups.items():
        pools.setdefault(pool, []).append(group)
    for members in pools.values():
        kept[members] = np.minimum(sizes[members], cap(sizes[members], options.most_share))
    # 3. Which ones.
    stays = np.zeros(len(of), bool)
    rng = np.random.default_rng(options.seed)
    order = np.argsort(of, kind="stable")
    for group, end in enumerate(np.cumsum(sizes)):
        stays[rng.permutation(order[end - sizes[group] : end])[: kept[group]]] = True
    # 4. Written.
    report = Report()
    with writing(options.output, options.images, report) as writer:
        rows = zip(rows_of(options), stays.tolist(), strict=True)
        for row, stay in tqdm(rows, total=len(stays), desc="balance", unit="row", disable=None):
            if stay:
                writer.write(row)
    return "\n".join([str(report), *_told(options, groups, sizes, kept)])


def cap(sizes: np.ndarray, share: float) -> int:
    """The most rows that a group may keep so that none has over `share` of all rows that are kept.

    `sizes` (groups,) are the rows of each. With so few groups that one has to be over `share`, each keeps as many as
    the smallest has.
    """
    if len(sizes) * share <= 1:
        return int(sizes.min())
    low, high = int(sizes.min()), int(sizes.max())
    while low < high:  # the share of the largest grows with the cap
        middle = (low + high + 1) // 2
        if middle <= share * np.minimum(sizes, middle).sum():
            low = middle
        else:
            high = middle - 1
    return low


def _naming(options: BalanceOptions) -> Callable[[Row], tuple[str, str]]:
    """A function that gives a row's pool, within which shares are counted (--within), and its group in it (--by)."""
    clusters = _clusters(options) if options.by == "cluster" else {}

    def group(row: Row) -> str:
        if options.by == "cluster":
            return clusters.get(row.image or "", "no image")
        return row.category if options.by == "category" else " ".join(row.answer.lower().split())

    def pool(row: Row) -> str:
        if options.within == "question":
            return hashlib.blake2b(" ".join(row.question.lower().split()).encode(), digest_size=8).hexdigest()
        return row.category if options.within == "category" else ""

    return lambda row: (pool(row), group(row))


def _clusters(options: BalanceOptions) -> dict[str, str]:
    from trainer.data.curation.embedding import Embedder
    from trainer.data.curation.neighbours import Space

    if not options.model:
        raise OptionError(
            "--by cluster: needs --model, a CLIP or LLaVA checkpoint by whose embeddings pictures are clustered"
        )
    images = (row.image for row in rows_of(options) if row.image)
    space = Space(Embedder(options.model).of_files(images, options.index))
    if not space.places:
        return {}
    found = space.clusters(options.clusters, options.seed)
    like: dict[int, str] = {}
    for name, place in space.places.items():
        like.setdefault(int(found[place]), name.rpartition("/")[2])
    return {name: f"{found[place]} (such as {like[int(found[place])]})" for name, place in space.places.items()}


def _told(
    options: BalanceOptions, groups: dict[tuple[str, str], int], sizes: np.ndarray, kept: np.ndarray
) -> Iterator[str]:
    """A line for each of the groups that lost most; groups of the same name in several pools are told together."""
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for (_, name), group in groups.items():
        before[name] = before.get(name, 0) + int(sizes[group])
        after[name] = after.get(name, 0) + int(kept[group])
    lost = sorted((name for name in before if after[name] < before[name]), key=lambda name: after[name] - before[name])
    for name in lost[:_SHOWN]:
        shares = f"{before[name] / sizes.sum():.1%} of the rows before, {after[name] / kept.sum():.1%} now"
        yield f"{options.by} {name[:60]!r}: {before[name] - after[name]} of {before[name]} rows left out; {shares}"
    if len(lost) > _SHOWN:
        rest = sum(before[name] - after[name] for name in lost[_SHOWN:])
        yield f"… and {rest} rows of {len(lost) - _SHOWN} more"
