"""What our network, its saliency, its losses and their gradients should be, computed by PyTorch."""

import functools

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from benchmarks import scaling
from multimix_jax.models import MultiMix, normalize
from multimix_jax.objectives import MultiMixObjective
from multimix_jax.train_state import TrainState
from tests import tiny

torch = pytest.importorskip("torch")
torch_multimix = pytest.importorskip("benchmarks.torch_multimix")

SIDE = 32
BATCH = scaling.random_batch(SIDE, 4)
LOSSES = {"published": torch_multimix.published_losses, "best": torch_multimix.best_effort_losses}
torch.set_num_threads(1)  # more cost more than they help, at this size


@functools.cache
def ours(bridge=True):
    """The published network and loss without dropout."""
    return MultiMixObjective(MultiMix(dropout_rate=0.0, use_bridge=bridge))


@functools.cache
def variables(bridge=True):
    """Weights drawn by NumPy, since XLA takes long to compile its own draws."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: ours(bridge).init(key, SIDE), jax.random.key(0))
    draw = lambda leaf: rng.uniform(-0.3, 0.3, leaf.shape).astype(leaf.dtype)
    return jax.tree.map(draw, shapes)


@functools.cache
def our_step():
    """Terms of the loss, gradient, and the views that both were computed on."""
    state = TrainState.create(variables(), scaling.adam())

    @jax.jit
    def step(params, state, batch, keys):
        (_, (metrics, _)), gradient = jax.value_and_grad(ours(), has_aux=True)(
            params, state, batch, keys
        )
        return metrics, gradient, ours().views(batch, keys)

    metrics, gradient, seen = step(state.params, state, BATCH, tiny.keys())
    views = torch_multimix.load_views(
        BATCH,
        labeled=seen["cls/labeled, weak"],
        weak=seen["cls/unlabeled, weak"],
        strong=seen["cls/unlabeled, strong"],
    )
    return metrics, gradient, views


def peer(params, bridge=True, lean=False):
    """The same network in PyTorch, in float64: in float32 its own rounding reaches .005."""
    model = torch_multimix.MultiMix(bridge=bridge, dropout_rate=0.0, lean=lean)
    torch_multimix.load_flax(model, params)
    return model.double()


def assert_near(got, want, message=""):
    """The largest difference from PyTorch's tensor is 1e-4 of its largest value."""
    want = np.asarray(want.detach())
    atol = 1e-4 * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=message)


class NetworkTest(parameterized.TestCase):
    def test_published_count(self):
        sizes = [weight.numel() for weight in torch_multimix.MultiMix().parameters()]
        self.assertEqual(sum(sizes), 1_965_155)

    @parameterized.parameters(True, False)
    def test_agree(self, bridge):
        images, objective = BATCH["seg"]["labeled"]["image"], ours(bridge)

        @jax.jit
        def outputs(variables, images):
            output = objective.model.apply(variables, normalize(images))
            return output, objective.predict(variables, images)

        got, got_probabilities = outputs(variables(bridge), images)
        inputs = torch_multimix.load_images(images).double()
        channels_last = lambda x: x.permute(0, 2, 3, 1)
        for lean in (False, True):
            model = peer(variables(bridge)["params"], bridge, lean)
            with torch.no_grad():
                features = model.encode(inputs)
                saliency = torch.func.grad(model.score)(inputs).abs() if bridge else None
                masks = model.segment(inputs, features, saliency)
                mask, classes = model(inputs)
            assert_near(got.class_logits, model.classify(features))
            assert_near(got.mask_logits, channels_last(masks))
            if bridge:
                assert_near(got.saliency, channels_last(saliency))
            assert_near(got_probabilities["mask"], channels_last(mask))
            assert_near(got_probabilities["classes"], classes)


class LossTest(parameterized.TestCase):
    @parameterized.parameters(*LOSSES)
    def test_agree(self, form):
        """Both losses and the gradient of their sum."""
        metrics, gradient, views = our_step()
        self.assertGreater(metrics["cls/accepted"], 0)
        views = views._replace(
            images=tuple(image.double() for image in views.images), mask=views.mask.double()
        )
        model = peer(variables()["params"], lean=form == "best")
        seg, classes = LOSSES[form](model, views)
        (seg + classes).backward()
        assert_near(metrics["seg/dice"] + metrics["seg/kl"], seg)
        assert_near(metrics["cls/cross_entropy"] + metrics["cls/pseudo_label"], classes)
        for name, got in peer(gradient).named_parameters():
            # An instance norm takes the bias before it out: its gradient is rounding noise.
            if not ("conv" in name and name.endswith("bias")):
                assert_near(got.detach(), model.get_parameter(name).grad, name)

    @parameterized.parameters(
        (torch_multimix.PUBLISHED, "float32"),
        (torch_multimix.BEST_EAGER, "float32"),
        (torch_multimix.BEST_EAGER, "bfloat16"),
    )
    def test_step(self, form, dtype):
        """Updates every kernel."""
        params, views = variables()["params"], our_step()[-1]
        step = torch_multimix.Step(form, params, views, dtype)
        self.assertTrue(np.isfinite(step()))
        for name, before in peer(params).float().named_parameters():
            if name.endswith("weight"):
                self.assertFalse(torch.equal(step.model.get_parameter(name), before), name)


if __name__ == "__main__":
    absltest.main()
