"""TensorFlow for tf.data alone: without Keras, and without accelerators, which belong to JAX."""

import os

_SWITCH = "TF_USE_LEGACY_KERAS"

# TensorFlow imports Keras with itself, which takes longer than all the rest, unless it is told to
# look for an older one; `tf.keras` is there all the same for those who use it later.
_before = os.environ.get(_SWITCH)
os.environ[_SWITCH] = "1"
try:
    import tensorflow as tf
finally:
    if _before is None:
        del os.environ[_SWITCH]
    else:
        os.environ[_SWITCH] = _before

tf.config.set_visible_devices([], "GPU")
