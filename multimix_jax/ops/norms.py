"""Normalisation and ReLU as one function, whose gradient is short; instance norm gains 1.7 times on
CPU (docs/performance.md, "Each layer")."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5  # added to the variance
SLOPE = 0.2  # of the leaky ReLU
Triple = tuple[jax.Array, jax.Array, jax.Array]


def instance_norm_relu_reference(x: jax.Array) -> jax.Array:
    """What `instance_norm_relu` computes, as the formula reads."""
    x = x.astype(jnp.float32)
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    return nn.leaky_relu((x - mean) * jax.lax.rsqrt(variance + EPSILON), SLOPE)


def batch_norm_relu_reference(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """The first of what `batch_norm_relu` computes on one device, as Flax spells it."""
    norm = nn.BatchNorm(use_running_average=False, epsilon=EPSILON)
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": jnp.zeros_like(scale), "var": jnp.ones_like(scale)},
    }
    return nn.relu(norm.apply(variables, x, mutable=["batch_stats"])[0])


@jax.custom_vjp
def instance_norm_relu(x: jax.Array) -> jax.Array:
    """Instance norm (Ulyanov et al. 2016), then leaky ReLU of slope .2; [B,H,W,C] -> the same.

    The norm gives zero mean and unit variance over H and W for each image and channel, without
    scale or bias. Statistics are taken in float32, whatever the dtype of `x`. The gradient needs
    the result alone, and two passes over it.
    """
    return _instance_norm_relu(x)[0]


def _instance_norm_relu(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x32 = x.astype(jnp.float32)
    mean = x32.mean(axis=(1, 2), keepdims=True)
    centred = x32 - mean
    variance = jnp.square(centred).mean(axis=(1, 2), keepdims=True)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    z = centred * inverse
    y = jnp.maximum(z, SLOPE * z).astype(x.dtype)
    return y, (y, inverse)


def _instance_norm_relu_backward(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array]:
    y, inverse = residuals
    gradient32, y32 = gradient.astype(jnp.float32), y.astype(jnp.float32)
    z = jnp.minimum(y32, y32 / SLOPE)
    to_z = jnp.where(y32 > 0, gradient32, SLOPE * gradient32)
    mean = to_z.mean(axis=(1, 2), keepdims=True)
    along = (gradient32 * y32).mean(axis=(1, 2), keepdims=True)  # of to_z * z, which is the same
    return ((inverse * (to_z - mean - along * z)).astype(y.dtype),)


instance_norm_relu.defvjp(_instance_norm_relu, _instance_norm_relu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm_relu(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None
) -> Triple:
    """Batch norm (Ioffe & Szegedy 2015) by the batch's own statistics, then ReLU.

    [B,...,C] -> the same, and mean and variance (of the population), float32 [C]. Statistics are
    taken in float32 over all axes but the last, and over the devices of `axis_name`, a mapped axis.
    The gradient is kept short, two passes over `x` and the gradient that arrives; it does not go
    through the statistics returned.
    """
    return _batch_norm_relu(x, scale, bias, axis_name)[0]


def _batch_norm_relu(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis_name: str | None
) -> tuple[Triple, tuple[jax.Array, ...]]:
    mean, of_squares = _means(axis_name, x.astype(jnp.float32), jnp.square(x.astype(jnp.float32)))
    variance = jnp.maximum(of_squares - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + EPSILON)
    z = affine(x, inverse, -mean * inverse)
    y = nn.relu(affine(z, scale, bias)).astype(x.dtype)
    return (y, mean, variance), (x, mean, inverse, scale, bias)


def _batch_norm_relu_backward(
    axis_name: str | None, residuals: tuple[jax.Array, ...], gradients: Triple
) -> Triple:
    x, mean, inverse, scale, bias = residuals
    z = affine(x, inverse, -mean * inverse)
    arrived = gradients[0].astype(jnp.float32)
    arrived = jnp.where(affine(z, scale, bias) > 0, arrived, 0.0)
    here = _means(None, arrived, arrived * z)
    everywhere = jax.lax.pmean(here, axis_name) if axis_name else here
    to_z = arrived - affine(z, everywhere[1], everywhere[0])
    count = x.size // x.shape[-1]
    to_x = affine(to_z, scale * inverse, jnp.zeros_like(mean)).astype(x.dtype)
    return to_x, (here[1] * count).astype(scale.dtype), (here[0] * count).astype(bias.dtype)


batch_norm_relu.defvjp(_batch_norm_relu, _batch_norm_relu_backward)


def _means(axis_name: str | None, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Means over all axes but the last, and over devices."""
    means = tuple(array.mean(axis=range(array.ndim - 1)) for array in arrays)
    return jax.lax.pmean(means, axis_name) if axis_name else means


def affine(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """x scale + shift by channel, float32."""
    channels = (*[1] * (x.ndim - 1), -1)
    return x.astype(jnp.float32) * scale.reshape(channels) + shift.reshape(channels)
