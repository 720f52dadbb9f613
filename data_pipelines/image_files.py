"""What predictions take from here: how image files are found, read and fitted, as for training.

`multimix_jax.runs.image_predictor` looks this module up by its name.
"""

from data_pipelines.files import IMAGE_SUFFIXES as suffixes
from data_pipelines.files import images_below as below
from data_pipelines.files import orientation
from data_pipelines.files import read_image as read
from data_pipelines.resize import ResizeSpec as resize
from data_pipelines.threads import in_threads

__all__ = ["below", "in_threads", "orientation", "read", "resize", "suffixes"]
