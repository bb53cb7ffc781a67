"""What can go wrong with a trainer's input; every message names the file, field or option and the way out.

TrainerError
├── DataError        the rows: one line per fault, file and line first
├── OptionError      an option's value, or two that exclude each other
├── LossDiverged     the loss is infinite or no number
└── NoGain           the adapter answers as its base does or no better, or worse than --init-adapter: not published
"""

import errno
import re

# What a system call says of a disk, in words.
DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk's quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "it may not be written or read by this user",
    errno.EPERM: "it may not be written or read by this user",
    errno.EIO: "the disk fails",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EEXIST: "is a file",
}

# Packages that come with an extra other than `train`.
_EXTRAS = {"bitsandbytes": "qlora", "deepspeed": "zero", "faiss": "near", "llmcompressor": "quantize"}


class TrainerError(Exception):
    """The root: the command line prints its message and ends with status 2."""


class DataError(TrainerError):
    """Rows that cannot be trained on; `faults` has all, the message the first `shown`."""

    def __init__(self, faults: list[str], shown: int = 20) -> None:
        more = [f"… and {len(faults) - shown} more: `data check` shows all"] if len(faults) > shown else []
        super().__init__("\n".join(faults[:shown] + more))
        self.faults = faults


class OptionError(TrainerError):
    """An option whose value cannot be used, or that excludes another that was given."""


class LossDiverged(TrainerError):
    """Training stopped at the first loss that is infinite or no number."""


class NoGain(TrainerError):
    """Training ended with an adapter that should not be published."""


def machine_failure(error: BaseException) -> str | None:
    """A sentence on an error of disk or memory, found in the error or its causes; None: it is something else, a bug.

    Libraries raise errors of their own classes for these, so the text of an error decides too.
    """
    met: list[BaseException] = []
    while error not in met:
        met.append(error)
        if said := _machine_failure(error):
            return said
        error = error.__cause__ or error.__context__ or error
    return None


def _machine_failure(error: BaseException) -> str | None:
    text = str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        return f"{error.filename or 'a file'}: {DISK[error.errno]}; what was written before is kept"
    # safetensors and PyTorch's zip writer say in words what a disk did.
    if found := re.search(r"No space left on device|Disk quota exceeded|Read-only file system", text):
        return f"{found[0].lower()}: {text.splitlines()[0]:.200}"
    if "PytorchStreamWriter failed" in text or "inline_container" in text:
        return f"a checkpoint could not be written, which is what a full disk does: {text.splitlines()[0]:.200}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "t allocate memory" in text:
        first = f" ({text.splitlines()[0]:.160})" if text else ""
        return f"out of memory{first}: fewer --tokens, --gradient-checkpointing and --nf4 need less"
    return None


def missing_package(error: ModuleNotFoundError) -> str:
    """A sentence that names the package an import did not find, and the extra of Manylens that brings it."""
    package = (error.name or str(error)).partition(".")[0]
    return f"the package {package} is missing: install manylens[{_EXTRAS.get(package, 'train')}]"
