import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from multimix_jax import losses
from multimix_jax.keys import ExampleKeys
from multimix_jax.models import UNet, VNet
from multimix_jax.objectives.dtml import DtmlObjective, ramp_up
from multimix_jax.ops.distance import signed_distance
from multimix_jax.state import TrainState
from multimix_jax.training.step import make_train_step

NET = functools.partial(VNet, filters=4, convolutions=(1, 1), dropout_rate=0.0)
OBJECTIVE = DtmlObjective(
    seg=NET(), sdf=NET(heads=("sdf",)), patch=(8, 8), sharpness=5.0, distance_weight=0.5
)

TAUGHT = DtmlObjective(
    seg=NET(norm="instance"), sdf=None, patch=(8, 8), teacher_weight=0.5, teacher_noise=0.0
)


def batch(sides=(8, 8)):
    """Patches as large as the images, so that the views are turns and mirrors alone."""
    rng = np.random.default_rng(0)
    image = lambda: rng.normal(size=(3, *sides, 1)).astype(np.float32)
    mask = rng.integers(0, 2, (3, *sides, 1)).astype(np.uint8)
    return {"seg/labeled": {"image": image(), "mask": mask}, "seg/unlabeled": {"image": image()}}


@functools.cache
def first_state(objective=OBJECTIVE):
    return TrainState.create(
        jax.jit(objective.init, static_argnums=1)(jax.random.key(0), 8), optax.sgd(0.1)
    )


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(objective, state, batch):
    keys = ExampleKeys(jax.random.key(1))
    return jax.value_and_grad(objective, has_aux=True)(state.params, state, batch, keys)


class LossTest(parameterized.TestCase):
    def test_equals_its_parts(self):
        state = dataclasses.replace(first_state(), step=jnp.int32(3000))
        (loss, (metrics, _)), _ = loss_and_gradient(OBJECTIVE, state, batch())
        views = jax.jit(OBJECTIVE._views)(batch(), ExampleKeys(jax.random.key(1)))
        images = jnp.concatenate([view["image"] for view in views.values()])
        mask = views["seg/labeled"]["mask"].astype(jnp.float32)
        outputs = {}
        for name, net in (("seg", OBJECTIVE.seg), ("sdf", OBJECTIVE.sdf)):
            held = {"params": state.params[name], "batch_stats": state.batch_stats[name]}
            apply = functools.partial(net.apply, train=True, mutable=["batch_stats"])
            output, _ = jax.jit(apply)(held, images)
            (outputs[name],) = output.values()
        soft = jax.nn.sigmoid(-5.0 * outputs["sdf"])
        probability = jax.nn.sigmoid(outputs["seg"])
        dice = lambda p: losses.squared_dice_loss(probability=p, mask=mask).mean()
        error = outputs["sdf"][:3] - signed_distance(mask)
        entropy = losses.binary_cross_entropy(logits=outputs["seg"][:3], mask=mask)
        want = {
            "seg/cross_entropy": entropy.mean() / 2,
            "seg/dice": dice(probability[:3]) / 2,
            "sdf/dice": dice(soft[:3]),
            "sdf/distance": 0.5 * jnp.square(error).mean(),
            "mutual": 2 * np.exp(-5 * (1 - 20 / 40) ** 2) * jnp.square(soft - probability).mean(),
        }
        for name, value in want.items():
            self.assertGreater(value, 0)
            np.testing.assert_allclose(metrics[name], value, rtol=2e-4, err_msg=name)
        np.testing.assert_allclose(loss, sum(want.values()), rtol=2e-4)

    @parameterized.parameters((0, np.exp(-5)), (149, np.exp(-5)), (3000, np.exp(-1.25)), (9999, 1))
    def test_ramp_up(self, step, want):
        np.testing.assert_allclose(ramp_up(jnp.int32(step), 6000), want, rtol=1e-6)

    @parameterized.parameters("seg", "sdf")
    def test_a_detached_side_does_not_learn_from_the_other(self, side):
        """Its gradient is that of the objective without the mutual term."""
        state = dataclasses.replace(first_state(), step=jnp.int32(6000))
        detached = dataclasses.replace(OBJECTIVE, detach=side)
        both = dataclasses.replace(OBJECTIVE, mutual_on="all")
        _, got = loss_and_gradient(detached, state, batch())
        _, whole = loss_and_gradient(both, state, batch())
        other = {"seg": "sdf", "sdf": "seg"}[side]
        largest = lambda a, b: max(
            float(np.abs(np.subtract(x, y)).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)))
        )
        self.assertGreater(largest(got[side], whole[side]), 1e-4)
        self.assertLess(largest(got[other], whole[other]), 1e-6)

    def test_without_the_mutual_term_the_unlabelled_are_not_asked_for(self):
        pair = dataclasses.replace(OBJECTIVE, mutual_weight=0.0)
        self.assertEqual(pair.streams, ("seg/labeled",))
        alone = dataclasses.replace(OBJECTIVE, sdf=None)
        self.assertEqual(alone.streams, ("seg/labeled",))
        (_, (metrics, _)), _ = loss_and_gradient(alone, first_state(alone), batch())
        self.assertEqual(set(metrics), {"seg/cross_entropy", "seg/dice"})

    def test_learns_in_two_and_three_dimensions(self):
        for sides in ((8, 8), (8, 8, 4)):
            objective = dataclasses.replace(OBJECTIVE, patch=sides)
            state = first_state(objective)
            step = jax.jit(make_train_step(objective, optax.sgd(0.1)))
            found = [state]
            values = []
            for _ in range(8):
                state, metrics = step(found[-1], batch(sides))
                found.append(state)
                values.append(float(metrics["seg/cross_entropy"]))
            self.assertLess(values[-1], values[0])
            self.assertTrue(np.isfinite(values).all())

    def test_a_teacher_who_is_the_pupil_teaches_nothing(self):
        """Without noise and dropout both say the same; with noise they do not."""
        state = dataclasses.replace(first_state(TAUGHT), step=jnp.int32(6000))
        state = dataclasses.replace(state, ema_params=state.params)
        (_, (metrics, _)), _ = loss_and_gradient(TAUGHT, state, batch())
        self.assertLess(metrics["teacher"], 1e-9)
        noisy = dataclasses.replace(TAUGHT, teacher_noise=0.5)
        (_, (metrics, _)), _ = loss_and_gradient(noisy, state, batch())
        self.assertGreater(metrics["teacher"], 1e-6)

    def test_the_teacher_is_the_moving_average(self):
        state = dataclasses.replace(first_state(TAUGHT), step=jnp.int32(3000))
        taught = jax.tree.map(lambda x: 1.5 * x, state.params)
        state = dataclasses.replace(state, ema_params=taught)
        (loss, (metrics, _)), gradient = loss_and_gradient(TAUGHT, state, batch())
        views = jax.jit(TAUGHT._views)(batch(), ExampleKeys(jax.random.key(1)))
        view = views["seg/unlabeled"]["image"]
        say = lambda params: jax.nn.sigmoid(
            TAUGHT.seg.apply({"params": params["seg"]}, view)["mask"]
        )
        term = lambda params: (
            0.5 * np.exp(-5 * 0.5**2) * jnp.square(say(params) - say(taught)).mean()
        )
        value, slope = jax.jit(jax.value_and_grad(term))(state.params)
        np.testing.assert_allclose(metrics["teacher"], value, rtol=1e-4)
        alone = dataclasses.replace(TAUGHT, teacher_weight=0.0)
        _, without = loss_and_gradient(alone, state, batch())
        want = jax.tree.map(np.add, without, slope)
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5), gradient, want
        )

    def test_the_teacher_predicts_with_running_statistics_of_its_own(self):
        """They converge to what its own features are; the pupil's are others."""
        both = dataclasses.replace(OBJECTIVE, teacher_weight=0.5, teacher_noise=0.0, turn=False)
        state = first_state(both)
        far = jax.tree.map(lambda x: -1.5 * x + 0.3, state.params)  # of unlike features
        state = dataclasses.replace(state, ema_params=far)
        for _ in range(80):
            (_, (_, stats)), _ = loss_and_gradient(both, state, batch())
            state = dataclasses.replace(state, batch_stats=stats)
        images = batch()["seg/unlabeled"]["image"]
        got = jax.jit(both.predict)(state.eval_variables, images)

        def answers(name, net):
            """By the statistics of the images, of the teacher and of the pupil."""
            say = lambda held, **train: net.apply(
                {"params": far[name], "batch_stats": held}, images, **train
            )
            train = functools.partial(say, train=True, mutable="batch_stats")
            (want,) = jax.jit(train)(stats[name])[0].values()
            test = jax.jit(say)
            return want, *(test(of[name])[net.heads[0]] for of in (stats["teacher"], stats))

        for name, net, key in (("seg", both.seg, "mask"), ("sdf", both.sdf, "distance")):
            want, teacher, pupil = answers(name, net)
            self.assertLess(jnp.abs(teacher - want).max(), 0.3 * jnp.abs(pupil - want).max())
            teacher = jax.nn.sigmoid(teacher) if key == "mask" else teacher
            np.testing.assert_allclose(got[key], teacher, atol=1e-6)

    def test_unet_in_two_dimensions(self):
        """Both networks may be U-Nets; whole images, neither turned nor mirrored."""
        unet = functools.partial(UNet, filters=(4, 8), dropout_rate=0.0)
        objective = DtmlObjective(seg=unet(), sdf=unet(heads=("sdf",)), patch=(), turn=False)
        images = batch((16, 16))
        images["seg/labeled"]["image"] = np.arange(3 * 256, dtype=np.uint8).reshape(3, 16, 16, 1)
        views = jax.jit(objective.views)(images, ExampleKeys(jax.random.key(1)))
        np.testing.assert_allclose(views["seg/labeled"][0].min(), -1)
        variables = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), 16)
        state = TrainState.create(variables, optax.sgd(0.1))
        (loss, (_, stats)), gradient = loss_and_gradient(objective, state, images)
        self.assertTrue(np.isfinite(loss))
        self.assertEqual(stats, state.batch_stats)
        self.assertGreater(max(jnp.abs(g).max() for g in jax.tree.leaves(gradient["sdf"])), 0)
        self.assertEqual(objective.parts, ("decoder", "distance network", "mutual term"))

    def test_predicts_three_masks(self):
        state = first_state()
        images = batch()["seg/labeled"]["image"]
        got = jax.jit(OBJECTIVE.predict)(state.eval_variables, images)
        self.assertEqual(set(got), {"mask", "mask_sdf", "mask_average", "distance"})
        np.testing.assert_allclose(
            got["mask_average"], (got["mask"] + got["mask_sdf"]) / 2, atol=1e-6
        )


if __name__ == "__main__":
    absltest.main()
