"""Puts the embedded model and its adapters into the wheel; all else is in pyproject.toml.

A build without this file, as the container image's, makes a wheel that holds no model.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# What service/embedded.py looks for, of the folder models/.
EMBEDDED = ("tiny-llava", "tiny-llava-int4", "adapters")


class WithModels(build_py):
    """Copies models/ into the package `service`, which a checkout reads where they are."""

    def run(self) -> None:
        """Build as ever, then copy."""
        super().run()
        if not self.editable_mode:
            for name in EMBEDDED:
                source, target = Path("models", name), Path(self.build_lib, "service", "models", name)
                shutil.copytree(source, target, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithModels})
