"""Encoded bytes -> the one RGB picture the model sees; knows neither HTTP nor the engine.

The trainer imports this too, so that an adapter is trained on the pixels that it gets when it is served.
"""

from service.images.decode import ImageLimits, decode
from service.images.prepare import Preparation, picture

__all__ = ["ImageLimits", "Preparation", "decode", "picture"]
