"""Copies are told by hash and small pixels, the first of them, however many images there are."""

import random

import pytest

from trainer.data.copies import Copies
from trainer.data.image_facts import ImageFacts


def of(hash_: int, grey: int) -> ImageFacts:
    return ImageFacts("", hash=hash_, small=bytes([grey]) * 768)


def test_both_hash_and_pixels_have_to_be_near() -> None:
    copies = Copies(distance=2, tolerance=10)
    copies.add("a", of(0b0000, 100))
    assert copies.find(of(0b0011, 110)) == "a"
    assert copies.find(of(0b0111, 100)) is None
    assert copies.find(of(0b0011, 111)) is None
    assert copies.find(of(0b0011, 90)) == "a"
    assert copies.find(of(0b0011, 89)) is None


@pytest.mark.parametrize("alike", [1, 700])
def test_of_thousands_the_first_copy_is_found(monkeypatch: pytest.MonkeyPatch, alike: int) -> None:
    """More than lie in one block, and more of one hash than are compared at once."""
    monkeypatch.setattr("trainer.data.copies._BLOCK", 1000)
    draw = random.Random(0)
    copies = Copies(6, 24)
    for number in range(3000):
        copies.add(f"other {number}", of(draw.getrandbits(64), 0))
    for number in range(alike):
        copies.add(f"dark {number}", of(7, 0))
    for number in range(3):
        copies.add(f"copy {number}", of(7, 200))
    assert copies.find(of(7, 201)) == "copy 0"
    assert copies.first("late", of(6, 199)) == "copy 0"
    assert copies.first("new", of(6, 99)) == "new"
    assert copies.find(of(6, 98)) == "new"


def test_nothing_is_a_copy_of_nothing() -> None:
    assert Copies(64, 255).find(of(0, 0)) is None
