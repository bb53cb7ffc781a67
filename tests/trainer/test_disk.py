"""A full or read-only disk is found before any work, in one line with option and path, and leaves nothing behind."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.test_cli import run
from trainer.data import files
from trainer.disk import check_file, check_folder
from trainer.errors import DataError, OptionError, machine_failure, missing_package
from trainer.model.checkpoint_files import new_directory


@pytest.fixture(params=["full", "read-only"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte that takes nothing more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    kind = "size=1m" if request.param == "full" else "size=1m,ro"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", kind, "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount")
    if request.param == "full":
        with pytest.raises(OSError, match="No space"):
            (folder / "fill").write_bytes(b"\0" * (1 << 20) + b"\0")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_takes_nothing_is_told_with_option_and_path(disk: Path) -> None:
    with pytest.raises(OptionError, match=rf"--store {disk}/new: the disk is (full|read-only)"):
        check_folder("--store", disk / "new")
    with pytest.raises(OptionError, match="--report"):
        check_file("--report", str(disk / "report.html"))
    assert not (disk / "new").exists()


@pytest.mark.parametrize("option", ["--store", "--output", "--feature-cache"])
def test_train_finds_it_before_it_reads_a_row(
    codes: Path, tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run(codes, tmp_path, option, str(disk / "new"), "--data", "/nowhere.jsonl") == 2
    assert f"{option} {disk}/new: the disk is" in capsys.readouterr().err
    assert list(disk.rglob("*.part")) == []


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/store"):
        with pytest.raises(OptionError, match=r"--store .*file"):
            check_folder("--store", folder)
    with pytest.raises(OptionError, match="is a directory"):
        check_file("--report", str(tmp_path))


def test_what_is_needed_and_what_is_free_are_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"MB are needed and .* MB are free"):
        check_folder("--output", tmp_path, 1 << 60)


def test_a_file_that_could_not_be_written_leaves_no_part(disk: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        files.write(str(disk / "rows.jsonl"), b"\0" * (2 << 20))
    assert list(disk.rglob("*.part")) == []


def test_a_checkpoint_that_could_not_be_written_leaves_no_part(tmp_path: Path) -> None:
    def cut_off() -> None:
        with new_directory(tmp_path / "new") as part:
            (part / "half").touch()
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        cut_off()
    assert list(tmp_path.iterdir()) == []


class OutOfMemoryError(RuntimeError):
    """As torch.cuda's is called."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "runs/x/log.jsonl"), "runs/x/log.jsonl: the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "s"), "s: it may not be written"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"), "full disk"),
        (MemoryError(), "out of memory: fewer --tokens"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (RuntimeError("shapes do not fit"), None),
        (ValueError("No such option"), None),
    ],
)
def test_what_the_machine_does_is_a_sentence_and_a_fault_is_not(error: Exception, words: str | None) -> None:
    for raised in (error, caused(error)):
        said = machine_failure(raised)
        assert said is None if words is None else words in str(said)


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    assert missing_package(ModuleNotFoundError(name="peft")) == "the package peft is missing: install manylens[train]"
    assert "manylens[quantize]" in missing_package(ModuleNotFoundError(name="llmcompressor.modifiers"))


def caused(error: Exception) -> Exception:
    try:
        raise KeyError("another") from error
    except KeyError as outer:
        return outer
