"""Where the embedded model and its adapters lie: `models/` of a checkout, `service/models/` of an installed wheel."""

from pathlib import Path

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parent / "models"


def embedded(name: str) -> str:
    """The path of `tiny-llava`, `tiny-llava-int4` or `adapters`: from the working directory where that leads to it.

    The container image holds none of them: there the path leads nowhere, and `service.checkpoint.locate` says so.
    """
    packed = _HERE / "models"
    path = (packed if packed.is_dir() else _CHECKOUT) / name
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
