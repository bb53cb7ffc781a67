"""Encoded bytes -> the one RGB picture the model sees; knows neither HTTP nor the engine.

The trainer imports this too: an adapter is trained on exactly the pixels it will be served.
"""

from service.images.decode import ImageLimits, decode
from service.images.prepare import Preparation, picture

__all__ = ["ImageLimits", "Preparation", "decode", "picture"]
