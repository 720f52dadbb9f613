"""MultiMix in JAX: classify and segment medical images from few labels, with one network.

The public names stand in `__init__.pyi`; each is imported when it is first used, so that a command
that needs no network does not wait for one.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
