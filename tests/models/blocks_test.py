import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from multimix_jax.models import blocks
from tests import tiny


def plain_norm_relu(x):
    """As the formula says; JAX takes its gradient."""
    mean = x.mean((1, 2), keepdims=True)
    variance = ((x - mean) ** 2).mean((1, 2), keepdims=True)
    return nn.leaky_relu((x - mean) / jnp.sqrt(variance + 1e-5), 0.2)


class NormReluTest(parameterized.TestCase):
    def test_equals_numpy(self):
        x = np.random.default_rng(0).normal(3, 2, (2, 5, 7, 3))
        z = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
        want = np.where(z > 0, z, 0.2 * z)
        np.testing.assert_allclose(blocks.norm_relu(jnp.asarray(x, jnp.float32)), want, atol=1e-5)

    def test_mean_far_from_zero(self):
        # A variance taken from the mean of the squares would be off here.
        x = np.random.default_rng(0).normal(30, 1, (1, 32, 32, 2))
        z = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
        want = np.where(z > 0, z, 0.2 * z)
        np.testing.assert_allclose(blocks.norm_relu(jnp.asarray(x, jnp.float32)), want, atol=3e-4)

    def test_statistics_of_bfloat16_are_float32(self):
        # 256 + 0..14: with eight bits the mean and the squares would be off by whole units.
        x = 256 + 2 * np.random.default_rng(0).integers(0, 8, (1, 16, 16, 2)).astype(np.float64)
        got = blocks.norm_relu(jnp.asarray(x, jnp.bfloat16))
        self.assertEqual(got.dtype, jnp.bfloat16)
        z = (x - x.mean((1, 2))) / np.sqrt(x.var((1, 2)) + 1e-5)
        np.testing.assert_allclose(got.astype(jnp.float32), np.where(z > 0, z, 0.2 * z), rtol=2**-7)

    def test_constant_image_is_finite(self):
        x = jnp.full((1, 4, 4, 1), 7.0)
        np.testing.assert_array_equal(blocks.norm_relu(x), 0)
        gradient = jax.grad(lambda x: blocks.norm_relu(x).sum())(x)
        np.testing.assert_allclose(gradient, 0, atol=1e-3)

    def test_gradients_are_those_of_the_formula(self):
        keys = jax.random.split(jax.random.key(0), 3)
        x, weights, direction = (jax.random.normal(key, (2, 5, 7, 3)) for key in keys)

        def first(norm):
            return jax.grad(lambda x: (weights * norm(x)).sum())

        def second(norm):
            return jax.grad(lambda x: (direction * first(norm)(x)).sum())

        for derivative in (first, second):
            got, want = derivative(blocks.norm_relu)(x), derivative(plain_norm_relu)(x)
            np.testing.assert_allclose(got, want, atol=1e-5 * float(jnp.abs(want).max()))


class TwoDropouts(nn.Module):
    @nn.compact
    def __call__(self, x, keys):
        layers = [blocks.ExampleDropout(0.5, name=name) for name in ("first", "second")]
        return tuple(layer(x, keys) for layer in layers)


class ExampleDropoutTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.keys = jax.random.split(jax.random.key(0), 4)
        self.x = jnp.ones((4, 25, 31, 3))

    @parameterized.parameters(0.25, 0.5, 0.1)
    def test_rate_and_scale(self, rate):
        got = np.asarray(blocks.ExampleDropout(rate).apply({}, self.x, self.keys))
        kept = got != 0
        deviation = np.sqrt(rate * (1 - rate) / got.size)
        self.assertAlmostEqual(kept.mean(), 1 - rate, delta=4 * deviation + 1 / 512)
        np.testing.assert_allclose(got[kept], 1 / (1 - rate), rtol=1 / 256)
        self.assertAlmostEqual(got.mean(), 1, delta=5 * deviation / (1 - rate))

    def test_pixels_are_independent(self):
        got = np.asarray(blocks.ExampleDropout(0.5).apply({}, self.x, self.keys))
        flat = got.reshape(4, -1)
        neighbours = [
            np.corrcoef(flat[:, :-lag].ravel(), flat[:, lag:].ravel()) for lag in (1, 3, 4)
        ]
        between = np.corrcoef(flat)
        for correlation in (*(n[0, 1] for n in neighbours), *between[np.triu_indices(4, 1)]):
            self.assertLess(abs(correlation), 0.1)

    def test_off_without_keys_or_rate(self):
        x = jax.random.normal(jax.random.key(1), (2, 3, 3, 1))
        np.testing.assert_array_equal(blocks.ExampleDropout(0.25).apply({}, x, None), x)
        np.testing.assert_array_equal(blocks.ExampleDropout(0.0).apply({}, x, self.keys[:2]), x)

    def test_mask_depends_on_own_key_only(self):
        drop = lambda part: blocks.ExampleDropout(0.25).apply({}, self.x[part], self.keys[part])
        halves = jnp.concatenate([drop(slice(0, 2)), drop(slice(2, 4))])
        np.testing.assert_array_equal(drop(slice(0, 4)), halves)

    def test_layers_differ(self):
        first, second = TwoDropouts().apply({}, self.x, self.keys)
        self.assertAlmostEqual(float((first == second).mean()), 0.5, delta=0.05)

    def test_gradient_passes_where_kept(self):
        drop = lambda x: blocks.ExampleDropout(0.25).apply({}, x, self.keys)
        np.testing.assert_array_equal(jax.grad(lambda x: drop(x).sum())(self.x), drop(self.x))

    def test_keeps_dtype(self):
        got = blocks.ExampleDropout(0.25).apply({}, self.x.astype(jnp.bfloat16), self.keys)
        self.assertEqual(got.dtype, jnp.bfloat16)


class InitializersTest(parameterized.TestCase):
    def test_torch_is_uniform_within_the_bound(self):
        bound = 1 / np.sqrt(90)
        for init in blocks.initializers("torch", 90).values():
            values = np.asarray(init(jax.random.key(0), (100, 300)))
            self.assertLessEqual(np.abs(values).max(), bound)
            self.assertGreater(np.abs(values).max(), 0.999 * bound)
            self.assertAlmostEqual(values.std() / (bound / np.sqrt(3)), 1, delta=0.01)
            self.assertAlmostEqual(values.mean() / bound, 0, delta=0.02)

    def test_every_layer_has_its_own_fan_in(self):
        def check(layer):
            fan_in = np.prod(layer["kernel"].shape[:-1])
            bound = 1 / np.sqrt(fan_in)
            values = np.concatenate([np.ravel(layer["kernel"]), layer["bias"]])
            self.assertLessEqual(np.abs(values).max(), bound)
            self.assertGreater(np.abs(layer["bias"]).max(), 0)
            if layer["kernel"].size > 100:
                spread = np.std(layer["kernel"]) / (bound / np.sqrt(3))
                self.assertAlmostEqual(spread, 1, delta=0.15)

        images = jnp.zeros((1, tiny.SIDE, tiny.SIDE, 1))
        params = jax.jit(tiny.model().init)(jax.random.key(0), images)["params"]
        is_layer = lambda node: isinstance(node, dict) and "kernel" in node
        layers = jax.tree.leaves(params, is_leaf=is_layer)
        # Two blocks of the encoder, one of the decoder, and two heads.
        self.assertLen(layers, 8)
        for layer in layers:
            check(layer)

    def test_flax(self):
        inits = blocks.initializers("flax", 90)
        np.testing.assert_array_equal(inits["bias_init"](jax.random.key(0), (5,)), 0)
        kernel = np.asarray(inits["kernel_init"](jax.random.key(0), (3, 3, 10, 200)))
        self.assertAlmostEqual(kernel.std() * np.sqrt(90), 1, delta=0.03)

    def test_unknown(self):
        with pytest.raises(ValueError, match="initializer='he' is unknown; use 'torch' or 'flax'"):
            blocks.initializers("he", 9)


class ConvBlockTest(parameterized.TestCase):
    def test_equals_scipy(self):
        images = np.random.default_rng(0).normal(size=(2, 9, 6, 3)).astype(np.float32)
        block = blocks.ConvBlock(4)
        variables = block.init(jax.random.key(0), images)
        got = block.apply(variables, images)
        want = [tiny.conv_block(image, variables["params"]) for image in images]
        np.testing.assert_allclose(got, want, atol=1e-4)

    def test_dropout_comes_last(self):
        x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
        block = blocks.ConvBlock(4)
        variables = block.init(jax.random.key(1), x)
        off = block.apply(variables, x)
        on = block.apply(variables, x, jax.random.split(jax.random.key(2), 2))
        self.assertTrue((on == 0).any())
        np.testing.assert_allclose(on, jnp.where(on == 0, 0, off / 0.75), rtol=1e-6)


class MaxPoolTest(parameterized.TestCase):
    def test_equals_numpy(self):
        images = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
        want = [tiny.pooled(image) for image in images]
        np.testing.assert_array_equal(blocks.max_pool(jnp.asarray(images)), want)

    def test_odd_rows_and_columns_are_left_out(self):
        images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 3, 2)))
        np.testing.assert_array_equal(blocks.max_pool(images), blocks.max_pool(images[:, :4, :2]))

    def test_gradient_goes_to_the_first_of_equals(self):
        images = np.random.default_rng(0).integers(0, 3, (2, 8, 6, 3)).astype(np.float32)
        weights = np.random.default_rng(1).normal(size=(2, 4, 3, 3)).astype(np.float32)
        want = np.zeros_like(images)
        for b, i, j, c in np.ndindex(weights.shape):
            window = images[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
            di, dj = np.unravel_index(window.argmax(), (2, 2))
            want[b, 2 * i + di, 2 * j + dj, c] = weights[b, i, j, c]
        got = jax.grad(lambda x: (weights * blocks.max_pool(x)).sum())(jnp.asarray(images))
        np.testing.assert_array_equal(got, want)


class BatchNormReluTest(parameterized.TestCase):
    def operands(self, batch=8):
        keys = jax.random.split(jax.random.key(0), 4)
        x = 2.0 + jax.random.normal(keys[0], (batch, 3, 4, 5))
        scale, bias = jax.random.uniform(keys[1], (2, 5), minval=-1.0, maxval=1.5)
        return x, scale, bias, jax.random.normal(keys[2], x.shape)

    def test_value_and_gradient_equal_those_of_flax(self):
        x, scale, bias, gradient = self.operands()
        norm = nn.BatchNorm(use_running_average=False, epsilon=blocks.EPSILON)

        def theirs(x, scale, bias):
            held = {"params": {"scale": scale, "bias": bias},
                    "batch_stats": {"mean": bias, "var": bias}}  # fmt: skip
            return nn.relu(norm.apply(held, x, mutable=["batch_stats"])[0])

        ours = lambda x, scale, bias: blocks.batch_norm_relu(x, scale, bias, None)[0]
        np.testing.assert_allclose(ours(x, scale, bias), theirs(x, scale, bias), atol=1e-5)
        got = jax.vjp(ours, x, scale, bias)[1](gradient)
        for mine, other in zip(got, jax.vjp(theirs, x, scale, bias)[1](gradient), strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-4)

    def test_devices_count_as_one_batch(self):
        """Values, statistics and gradients, by 1 device and by 4."""
        x, scale, bias, gradient = self.operands()
        net = lambda axis: blocks.BatchNormRelu(axis)
        variables = net(None).init(jax.random.key(0), x, bias, train=True)

        def run(axis, x, gradient):
            def loss(params, x):
                held = {"params": params, "batch_stats": variables["batch_stats"]}
                y, updated = net(axis).apply(held, x, bias, train=True, mutable=["batch_stats"])
                return (y * gradient).sum(), (y, updated)

            return jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], x)

        (to_params, to_x), (y, updated) = run(None, x, gradient)
        split = lambda array: array.reshape(4, 2, *array.shape[1:])
        mapped = jax.pmap(functools.partial(run, "batch"), axis_name="batch")
        (parts, of_x), (of_y, stats) = mapped(split(x), split(gradient))
        np.testing.assert_allclose(of_y.reshape(y.shape), y, atol=1e-5)
        np.testing.assert_allclose(of_x.reshape(x.shape), to_x, atol=1e-4)
        for name in ("scale", "bias"):
            np.testing.assert_allclose(parts[name].sum(0), to_params[name], atol=1e-4)
        for name in ("mean", "var"):
            got, want = stats["batch_stats"][name], updated["batch_stats"][name]
            np.testing.assert_allclose(got, np.tile(want, (4, 1)), rtol=1e-4)


if __name__ == "__main__":
    absltest.main()
