"""Every experiment's network has the number of parameters that the published layers add up to."""

import importlib
import pathlib

import jax
import pytest

import configs
from configs import consistency, dtml, multimix
from multimix_jax.objectives import ObjectiveSpec, make_objective


def block(channels, features):
    """Two 3x3 convolutions with biases; the instance norms have no weights."""
    return 9 * channels * features + features + 9 * features * features + features


ENCODER = block(1, 16) + block(16, 32) + block(32, 64) + block(64, 128) + block(128, 256)
CLASSIFIER = 256 * 2 + 2
HEAD = 16 * 1 + 1
LATER_STAGES = block(128 + 64, 64) + block(64 + 32, 32) + block(32 + 16, 16) + HEAD
DECODER = block(256 + 128, 128) + LATER_STAGES
DECODER_WITH_BRIDGE = block(256 + 128 + 2, 128) + LATER_STAGES


def level(count, width):
    """3x3x3 convolutions with biases, each with scale and shift of its norm."""
    return count * (27 * width * width + 3 * width)


def between(width):
    """Down to twice the features, and up again."""
    down = 8 * width * 2 * width + 3 * 2 * width
    return down + 8 * 2 * width * width + 3 * width


# Four levels of 1, 2, 3 and 3 convolutions; the first sees one channel.
VNET = 27 * 16 + 3 * 16 + level(1, 16) + 2 * level(2, 32) + 2 * level(3, 64) + level(3, 128)
VNET += between(16) + between(32) + between(64) + 17
PUBLISHED = 1_965_155
COUNTS = {
    ("multimix", "unet"): ENCODER + DECODER,
    ("multimix", "enc"): ENCODER + CLASSIFIER,
    ("multimix", "enc_ssl"): ENCODER + CLASSIFIER,
    ("multimix", "umtl"): ENCODER + CLASSIFIER + DECODER,
    ("multimix", "umtl_s"): PUBLISHED,
    ("multimix", "umtl_ssl"): ENCODER + CLASSIFIER + DECODER,
    ("multimix", "umtl_ssl_s"): PUBLISHED,
    ("multimix", "multimix"): PUBLISHED,
    ("multimix", "multimix_grad"): PUBLISHED,
    ("quickstart", ""): ENCODER + CLASSIFIER + DECODER,
    ("dtml", "supervised"): VNET,
    ("dtml", "mean_teacher"): VNET,
    ("dtml", "pair"): 2 * VNET,
    ("dtml", "dtml"): 2 * VNET,
    ("dtml", "dtml_teacher"): 2 * VNET,
}


COUNTS |= {
    ("consistency", system): ENCODER + CLASSIFIER + DECODER for system in consistency.SYSTEMS
}
COUNTS["consistency", "unet_augmented"] = ENCODER + DECODER
COUNTS |= {
    ("consistency", system): ENCODER + CLASSIFIER
    for system in ("consistency_classes", "enc_augmented")
}
SYSTEMS = {"multimix": multimix.SYSTEMS, "dtml": dtml.SYSTEMS, "consistency": consistency.SYSTEMS}


def experiments():
    """(file, system) of every config; system is '' where the file has but one."""
    for path in pathlib.Path(configs.__file__).parent.glob("*.py"):
        if path.stem not in ("__init__", "common", "folder", "grid"):  # folder: as the data are
            systems = SYSTEMS.get(path.stem, ("",))
            yield from ((path.stem, system) for system in systems)


def test_every_experiment_is_in_the_table():
    assert set(experiments()) == set(COUNTS)


def test_layers_add_up_to_the_published_count():
    assert ENCODER + CLASSIFIER + DECODER_WITH_BRIDGE == PUBLISHED


@pytest.mark.parametrize(("file", "system"), [*COUNTS])
def test_count(file, system):
    get_config = importlib.import_module(f"configs.{file}").get_config
    c = get_config(f"method={system}") if system else get_config()
    method = make_objective(ObjectiveSpec(c.method, c.dtype, c.model, c.objective))
    variables = jax.eval_shape(lambda key: method.network.init(key, 32), jax.random.key(0))
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(sizes) == COUNTS[file, system]
