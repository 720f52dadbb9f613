"""Runs that were never trained: random weights in a folder that the commands accept."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from multimix_jax.inference.predictor import Member, Predictor
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint
from multimix_jax.objectives import make_objective
from multimix_jax.runs import workdir
from multimix_jax.runs.spec import RunSpec
from multimix_jax.state import TrainState
from multimix_jax.training.checkpoint import Checkpoints
from tests.small_runs import small_config


class Data:
    """What `workdir.claim` asks of the data."""

    ids, contents = {}, {}

    def __init__(self, label_spec):
        self.label_spec = label_spec


def write_run(path, config, *, labels=LabelSpec(), seed=0):  # noqa: B008
    """Its moving average is what is meant to be used; gives a predictor and these variables."""
    fields = config.to_dict()
    workdir.claim(path, fields, Data(labels))
    network = make_objective(RunSpec.of_config(fields).objective, labels).network
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), fields["size"]))
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.uniform(0.1, 0.3, leaf.shape).astype(leaf.dtype)
    draw_around_zero = lambda leaf: draw(leaf) * rng.choice([-1, 1], leaf.shape).astype(leaf.dtype)
    variables = jax.tree.map(draw, shapes) | {
        "params": jax.tree.map(draw_around_zero, shapes["params"])
    }
    state = TrainState.create(variables, optax.identity(), keep_average=True)
    state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    with Checkpoints(path) as checkpoints:
        checkpoints.save(Checkpoint.BEST, state, {})
    return Predictor([Member(network)], saliency="gradient"), state.eval_variables


def write_runs(folder, size):
    """Two runs of MultiMix, `a` and `b`, and one of a `unet`."""
    for seed, (name, system) in enumerate(dict(a="multimix", b="multimix", unet="unet").items()):
        write_run(folder / name, small_config(folder, system, size=size), seed=seed)
