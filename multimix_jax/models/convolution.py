"""3x3 convolution with a filter gradient that is fast on CPU as well."""

import jax
import jax.numpy as jnp

# Images of one matrix product: enough to keep the cores busy, few enough to stay in their caches.
_GROUP = 4


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution [B,H,W,C] * [3,3,C,K] -> [B,H,W,K], stride 1, edges padded with zeros.

    The numbers of `jax.lax.conv_general_dilated`, and its gradients up to rounding. On CPU the
    kernel's gradient is taken by matrix products (measured: docs/performance.md).
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
    # Spelled as a convolution forwards: XLA's own gradients are very slow on CPU within a loop.
    to_x = _plain(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    to_kernel = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=_kernel_gradient,
        default=lambda x, gradient: jax.vjp(lambda k: _plain(x, k), kernel)[1](gradient)[0],
    )
    return to_x, to_kernel


conv3x3.defvjp(_forward, _backward)


def _kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """sum_{b,h,w} x[b,h+i-1,w+j-1,c] gradient[b,h,w,k] as [3,3,C,K], group by group of images."""
    batch, channels, features = x.shape[0], x.shape[-1], gradient.shape[-1]
    group = next(size for size in range(_GROUP, 0, -1) if batch % size == 0)
    grouped = lambda t: t.reshape(batch // group, group, *t.shape[1:])
    taps = _taps_of_few if channels < 8 else _taps

    def add(total: jax.Array, parts: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + taps(*parts), None

    zero = jnp.zeros((3, 3, channels, features), jnp.float32)
    total, _ = jax.lax.scan(add, zero, (grouped(x), grouped(gradient)))
    return total.astype(x.dtype)


def _taps(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """The columns' shift is moved over to the gradient, whose three copies lie side by side.

    Three products of [C, pixels] and [pixels, 3K] then give all nine taps.
    """
    _, height, width, channels = x.shape
    features = gradient.shape[-1]
    rows = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
    columns = jnp.pad(gradient, ((0, 0), (0, 0), (1, 1), (0, 0)))
    shifted = jnp.concatenate([columns[:, :, 2 - j : 2 - j + width] for j in range(3)], axis=-1)
    taps = jnp.stack([_product(rows[:, i : i + height], shifted) for i in range(3)])
    return taps.reshape(3, channels, 3, features).swapaxes(1, 2)


def _taps_of_few(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Of few channels nine copies are cheaper than three of the gradient."""
    _, height, width, channels = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    taps = _product(jnp.concatenate(shifted, axis=-1), gradient)
    return taps.reshape(3, 3, channels, gradient.shape[-1])


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[..., M] and [..., N] -> [M, N], summed over all pixels in float32."""
    a, b = (t.reshape(-1, t.shape[-1]) for t in (a, b))
    return jnp.matmul(a.T, b, preferred_element_type=jnp.float32)
