"""3x3 convolution with a filter gradient that is fast on CPU as well."""

import jax
import jax.numpy as jnp

# Images of one matrix product: enough to keep the cores busy, few enough to stay in their caches.
_GROUP = 4


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution [B,H,W,C] * [3,3,C,K] -> [B,H,W,K], stride 1, edges padded with zeros.

    The numbers of `jax.lax.conv_general_dilated`, and its gradients up to rounding. On CPU the
    gradient of the kernel of a large image is taken by matrix products, which is faster.
    """
    return _plain(x, kernel)


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _plain(x, kernel), (x, kernel)


def _backward(
    residuals: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    to_x, to_kernel = jax.vjp(_plain, x, kernel)[1](gradient)
    if _pays(x.shape):
        # Whichever is not used is not computed.
        to_kernel = jax.lax.platform_dependent(
            x, gradient, cpu=_kernel_gradient, default=lambda *_: to_kernel
        )
    return to_x, to_kernel


conv3x3.defvjp(_forward, _backward)


def _pays(shape: tuple[int, ...]) -> bool:
    """Whether matrix products beat XLA's own way on CPU (measured: docs/performance.md)."""
    _, height, width, channels = shape
    return channels >= 8 and height * width >= 1024


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """sum_{b,h,w} x[b,h+i-1,w+j-1,c] gradient[b,h,w,k] as [3,3,C,K], group by group of images.

    The columns' shift is moved over to the gradient, whose three shifted copies lie side by side:
    three products of [C, pixels] and [pixels, 3K] give all nine taps.
    """
    batch, height, width, channels = x.shape
    features = gradient.shape[-1]
    group = next(size for size in range(_GROUP, 0, -1) if batch % size == 0)

    def add(total: jax.Array, parts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, gradient = parts
        rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        columns = jnp.pad(gradient, ((0, 0), (0, 0), (1, 1), (0, 0)))
        shifted = jnp.concatenate([columns[:, :, 2 - j : 2 - j + width] for j in range(3)], axis=-1)
        shifted = shifted.reshape(-1, 3 * features)
        taps = [
            jnp.matmul(
                rows[:, i : i + height].reshape(-1, channels).T,
                shifted,
                preferred_element_type=jnp.float32,
            )
            for i in range(3)
        ]
        return total + jnp.stack(taps), None

    grouped = lambda t: t.reshape(batch // group, group, *t.shape[1:])
    zero = jnp.zeros((3, channels, 3 * features), jnp.float32)
    total, _ = jax.lax.scan(add, zero, (grouped(x), grouped(gradient)))
    total = total.reshape(3, channels, 3, features).transpose(0, 2, 1, 3)
    return total.astype(x.dtype)
