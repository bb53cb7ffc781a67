"""A name as a command line gives it -> the adapter it means: one of a store, of a run, or a directory."""

from pathlib import Path

from service.adapters.aliases import STABLE
from service.adapters.store import Store
from service.members import CONFIG, members
from trainer.adapter.local import LocalAdapter
from trainer.errors import OptionError
from trainer.training.run import is_run, learnt


def find(name: str, store: Path, option: str = "--adapter") -> LocalAdapter:
    """What `name` means: an adapter of the store, a directory of PEFT's files, or what a training run has learnt.

    Of the store NAME is the stable version, and NAME@ALIAS, as NAME@canary, the one that alias names. `option` is where
    it was given.

    Raises:
        OptionError: it is none of these, or a run that has learnt nothing yet.
        AdapterNotFound: the adapter has no such alias.
    """
    held = Store(store).names() if store.exists() else []  # it comes to be with the first that is published
    adapter, _, alias = name.partition("@")
    if adapter in held:
        path = Store(store).named(adapter, alias or STABLE).path
        return LocalAdapter(name, path, path)
    origin = Path(name)
    if any((folder / CONFIG).is_file() for folder in members(origin).values()):
        # A run's own parts know what they were trained on by the run.
        run = next((folder for folder in origin.parents[:2] if is_run(folder)), origin)
        return LocalAdapter(origin.name, origin, run)
    if is_run(origin):
        return LocalAdapter(origin.name, learnt(origin), origin)
    there = ", ".join(held) or "none"
    raise OptionError(f"{option} {name}: no directory of an adapter or a run; --store {store} holds {there}")
