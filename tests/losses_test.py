import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from multimix_jax import losses
from multimix_jax.labels import VOID

RNG = np.random.default_rng(0)


def normal(*shape, scale=2.0):
    return (scale * RNG.normal(size=shape)).astype(np.float32)


def log_odds(*probabilities):
    """Two-class logits whose softmax gives class 1 these probabilities."""
    p = np.asarray(probabilities)
    return jnp.asarray(np.stack([np.zeros_like(p), np.log(p / (1 - p))], axis=-1), jnp.float32)


@pytest.mark.parametrize("classes", [2, 5])
def test_cross_entropy_equals_numpy(classes):
    logits, label = normal(6, classes), RNG.integers(0, classes, 6)
    want = -special.log_softmax(logits.astype(np.float64), axis=-1)[np.arange(6), label]
    got = losses.cross_entropy(logits=jnp.asarray(logits), label=jnp.asarray(label))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_cross_entropy_by_hand():
    got = losses.cross_entropy(logits=log_odds(0.8, 0.8), label=jnp.asarray([1, 0]))
    np.testing.assert_allclose(got, -np.log([0.8, 0.2]), rtol=1e-5)


def test_cross_entropy_shapes_are_checked():
    with pytest.raises(AssertionError):
        losses.cross_entropy(logits=jnp.zeros(3), label=jnp.zeros(3, int))
    with pytest.raises(AssertionError):
        losses.cross_entropy(logits=jnp.zeros((3, 2)), label=jnp.zeros((3, 3), int))


def test_cross_entropy_independent_classes():
    """The mean of the entropies of the classes, each with the logit of a sigmoid."""
    logits = special.logit(np.array([[0.8, 0.3, 0.5], [0.9, 0.1, 0.2]]))
    got = losses.cross_entropy(logits=jnp.asarray(logits), label=jnp.array([[1, 0, 1], [0, 0, 0]]))
    want = [-np.log([0.8, 0.7, 0.5]).mean(), -np.log([0.1, 0.9, 0.8]).mean()]
    np.testing.assert_allclose(got, want, rtol=1e-5)


# Confident of class 1, confident of class 0, unsure, a little unsure.
WEAK = log_odds(0.9, 0.1, 0.5, 0.69)
STRONG = log_odds(0.8, 0.8, 0.8, 0.3)


def pseudo_label_loss(weak, strong, threshold=0.7):
    return losses.pseudo_label_cross_entropy(
        weak_logits=weak, strong_logits=strong, threshold=threshold
    )


def test_pseudo_label_by_hand():
    want = [-np.log(0.8), -np.log(0.2), 0, 0]
    np.testing.assert_allclose(pseudo_label_loss(WEAK, STRONG), want, rtol=1e-5)


def test_pseudo_label_independent_classes():
    """Sure that the first is there and the second is not; unsure of the third."""
    weak, strong = (
        jnp.asarray(special.logit(np.array([p])), jnp.float32)
        for p in ([0.9, 0.2, 0.6], [0.8, 0.4, 0.3])
    )
    label, confident = losses.pseudo_labels(weak, threshold=0.7, multi_label=True)
    assert (label.tolist(), confident.tolist()) == ([[1, 0, 1]], [[True, True, False]])
    got = losses.pseudo_label_cross_entropy(
        weak_logits=weak, strong_logits=strong, threshold=0.7, multi_label=True
    )
    np.testing.assert_allclose(got, [-(np.log(0.8) + np.log(0.6)) / 3], rtol=1e-5)


def test_unsure_pseudo_label_is_exactly_zero():
    loss, gradient = jax.vmap(
        jax.value_and_grad(lambda w, s: pseudo_label_loss(w[None], s[None])[0], 1)
    )(WEAK, STRONG)
    np.testing.assert_array_equal(loss[2:], 0)
    np.testing.assert_array_equal(gradient[2:], 0)
    # Where it counts, the gradient of the cross entropy: softmax minus the pseudo-label.
    np.testing.assert_allclose(gradient[:2], [[0.2, -0.2], [-0.8, 0.8]], rtol=1e-4)


def test_pseudo_label_has_no_gradient_to_the_weak_view():
    gradient = jax.grad(lambda weak: pseudo_label_loss(weak, STRONG).sum())(WEAK)
    np.testing.assert_array_equal(gradient, 0)


def test_pseudo_label_at_the_threshold_counts():
    # Equal logits: the softmax is exactly one half.
    weak = jnp.zeros((1, 2))
    strong = log_odds(0.8)
    np.testing.assert_allclose(pseudo_label_loss(weak, strong, 0.5), [-np.log(0.2)], rtol=1e-5)
    np.testing.assert_array_equal(
        pseudo_label_loss(weak, strong, np.nextafter(np.float32(0.5), 1)), 0
    )


def test_unsure_pseudo_label_stays_zero_where_the_strong_view_is_infinite():
    strong = jnp.asarray([[0.0, -jnp.inf]])
    np.testing.assert_array_equal(pseudo_label_loss(jnp.asarray([[0.0, 0.1]]), strong), 0)


def test_pseudo_label_shapes_are_checked():
    with pytest.raises(AssertionError):
        pseudo_label_loss(jnp.zeros((3, 2)), jnp.zeros((2, 2)))
    with pytest.raises(AssertionError):
        pseudo_label_loss(jnp.zeros(3), jnp.zeros(3))


def dice_loss(logits, mask, **arguments):
    return losses.dice_loss(
        logits=jnp.asarray(logits, jnp.float32),
        mask=jnp.asarray(mask, jnp.float32),
        **arguments,
    )


@pytest.mark.parametrize(("channels", "smooth"), [(1, 1.0), (3, 1.0), (1, 0.25)])
def test_dice_equals_numpy(channels, smooth):
    logits, mask = normal(3, 5, 4, channels), RNG.integers(0, 2, (3, 5, 4, channels))
    want = []
    for image, truth in zip(special.expit(logits.astype(np.float64)), mask, strict=True):
        want.append(
            np.mean(
                [
                    1
                    - (2 * (image[..., c] * truth[..., c]).sum() + smooth)
                    / (image[..., c].sum() + truth[..., c].sum() + smooth)
                    for c in range(channels)
                ]
            )
        )
    np.testing.assert_allclose(dice_loss(logits, mask, smooth=smooth), want, rtol=1e-5)


def test_dice_by_hand():
    # p = 1/2 on four pixels of which one is lung: 1 - (2 * .5 + 1) / (2 + 1 + 1).
    mask = np.zeros((1, 2, 2, 1))
    mask[0, 0, 0] = 1
    np.testing.assert_allclose(dice_loss(np.zeros((1, 2, 2, 1)), mask), [0.5])


def test_dice_perfect_wrong_and_empty():
    mask = RNG.integers(0, 2, (1, 6, 6, 1))
    sure = np.where(mask, 50.0, -50.0)
    np.testing.assert_allclose(dice_loss(sure, mask), 0, atol=1e-6)
    # Nothing in common: all 36 pixels are in one of the two.
    np.testing.assert_allclose(dice_loss(-sure, mask), 1 - 1 / 37, rtol=1e-6)
    np.testing.assert_allclose(dice_loss(np.full((1, 6, 6, 1), -50.0), 0 * mask), 0, atol=1e-6)
    np.testing.assert_allclose(dice_loss(np.full((1, 6, 6, 1), 50.0), 0 * mask), 36 / 37)


def test_dice_shapes_are_checked():
    with pytest.raises(AssertionError):
        dice_loss(np.zeros((1, 4, 4, 1)), np.zeros((1, 4, 4)))
    with pytest.raises(AssertionError):
        dice_loss(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))


def bernoulli_kl_loss(p_logits, q_logits):
    return losses.bernoulli_kl(
        p_logits=jnp.asarray(p_logits, jnp.float32), q_logits=jnp.asarray(q_logits, jnp.float32)
    )


def test_bernoulli_kl_equals_scipy():
    p_logits, q_logits = normal(3, 4, 5, 2), normal(3, 4, 5, 2)
    p, q = (special.expit(logits.astype(np.float64)) for logits in (p_logits, q_logits))
    want = (special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)).mean((1, 2, 3))
    np.testing.assert_allclose(bernoulli_kl_loss(p_logits, q_logits), want, rtol=1e-4)


def test_bernoulli_kl_by_hand_and_asymmetric():
    half, nine_tenths = np.zeros((1, 1, 1, 1)), np.full((1, 1, 1, 1), np.log(9))
    np.testing.assert_allclose(
        bernoulli_kl_loss(half, nine_tenths),
        [0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        bernoulli_kl_loss(nine_tenths, half),
        [0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)],
        rtol=1e-5,
    )


def test_bernoulli_kl_zero_for_equal_and_positive_otherwise():
    p_logits = normal(8, 3, 3, 1)
    np.testing.assert_array_equal(bernoulli_kl_loss(p_logits, p_logits), 0)
    assert bernoulli_kl_loss(p_logits, p_logits[::-1]).min() > 0


def test_bernoulli_kl_finite_far_out():
    far = np.full((1, 2, 2, 1), 100.0)
    loss, gradients = jax.value_and_grad(lambda p, q: bernoulli_kl_loss(p, q).sum(), (0, 1))(
        jnp.asarray(far), -jnp.asarray(far)
    )
    # p = 1, q = e^-100.
    np.testing.assert_allclose(loss, 100, rtol=1e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all()


def test_bernoulli_kl_gradient_reaches_both():
    p_logits, q_logits = jnp.asarray(normal(1, 2, 2, 1)), jnp.asarray(normal(1, 2, 2, 1))
    got = jax.grad(lambda p, q: bernoulli_kl_loss(p, q).sum(), (0, 1))(p_logits, q_logits)
    p, q = special.expit(p_logits), special.expit(q_logits)
    # d/da of KL(s(a) || s(b)) is p (1 - p) (a - b), d/db is q - p; over four pixels.
    np.testing.assert_allclose(got[0], p * (1 - p) * (p_logits - q_logits) / 4, atol=1e-6)
    np.testing.assert_allclose(got[1], (q - p) / 4, atol=1e-6)


def test_bernoulli_kl_shapes_are_checked():
    with pytest.raises(AssertionError):
        bernoulli_kl_loss(np.zeros((1, 4, 4, 1)), np.zeros((2, 4, 4, 1)))
    with pytest.raises(AssertionError):
        bernoulli_kl_loss(np.zeros((4, 4)), np.zeros((4, 4)))


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (2, 3, 4, 5, 1)])
def test_binary_cross_entropy_equals_scipy(shape):
    logits, mask = normal(*shape), RNG.integers(0, 2, shape)
    wide = logits.astype(np.float64)
    want = -special.log_expit(np.where(mask, wide, -wide)).mean(tuple(range(1, len(shape))))
    got = losses.binary_cross_entropy(logits=jnp.asarray(logits), mask=jnp.asarray(mask))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def squared_dice_loss(probability, mask):
    return losses.squared_dice_loss(
        probability=jnp.asarray(probability, jnp.float32), mask=jnp.asarray(mask, jnp.float32)
    )


def test_squared_dice_by_hand():
    # Channel 0: p = (1/2, 1/2), y = (1, 0): 1 - 1 / (.5 + 1). Channel 1: perfect.
    probability = np.array([[0.5, 1.0], [0.5, 0.0]]).reshape(1, 1, 2, 2)
    mask = np.array([[1, 1], [0, 0]]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(squared_dice_loss(probability, mask), [1 / 6], rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 4, 1), (1, 4, 4, 4, 1)])
def test_squared_dice_empty(shape):
    np.testing.assert_allclose(squared_dice_loss(np.zeros(shape), np.zeros(shape)), 0, atol=1e-6)


@pytest.mark.parametrize("k", [1.0, 1500.0])
def test_mask_of_distance_equals_scipy(k):
    distance = np.concatenate([np.linspace(-1, 1, 21), np.linspace(-0.03, 0.03, 21)])
    distance = distance.astype(np.float32)
    value_and_slope = jax.vmap(jax.value_and_grad(lambda z: losses.mask_of_distance(z, k)))
    got, slope = value_and_slope(jnp.asarray(distance))
    inner = -k * distance.astype(np.float64)
    np.testing.assert_allclose(got, special.expit(inner), rtol=1e-4, atol=1e-38)
    want = -k * special.expit(inner) * special.expit(-inner)
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-35)


def test_slope_where_the_mask_is_rounded_to_one():
    """At -20 / k the mask is 1 in float32; the slope is -k e^-20 nevertheless."""
    got = jax.grad(losses.mask_of_distance)(-20 / 1500, 1500.0)
    np.testing.assert_allclose(got, -1500 * np.exp(-20), rtol=1e-4)
    assert losses.mask_of_distance(jnp.float32(-20 / 1500), 1500.0) == 1


@pytest.mark.parametrize("distance", [-1.0, 0.0, 1.0])
def test_mask_of_distance_finite_anywhere(distance):
    for function in (losses.mask_of_distance, jax.grad(losses.mask_of_distance)):
        assert np.isfinite(function(distance, 1e6))


def masked_losses(logits, stored, *, void=True):
    """Each loss of a mask as it is stored, and its gradient."""
    truth = losses.Truth.of_stored(jnp.asarray(stored, jnp.uint8), void=void)._asdict()
    squared = lambda x: losses.squared_dice_loss(probability=jax.nn.sigmoid(x), **truth)
    for loss in (losses.dice_loss, losses.binary_cross_entropy):
        yield jax.value_and_grad(lambda x, loss=loss: loss(logits=x, **truth).sum())(logits)
    yield jax.value_and_grad(lambda x: squared(x).sum())(logits)


def test_void_pixels_are_as_if_cut_out():
    """Of one image in which only a corner is known, the losses of that corner; of one that is void
    everywhere nothing is learned."""
    logits = jnp.asarray(normal(1, 6, 6, 2))
    mask = np.full((1, 6, 6, 2), VOID)
    nothing = [float(loss) for loss, _ in masked_losses(logits, mask)]
    assert np.isfinite(nothing).all()
    mask[:, :2, :3] = RNG.integers(0, 2, (1, 2, 3, 2))
    corner = masked_losses(logits[:, :2, :3], mask[:, :2, :3], void=False)
    for (got, gradient), (want, part) in zip(masked_losses(logits, mask), corner, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_allclose(gradient[:, :2, :3], part, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(np.asarray(gradient)[mask == VOID], 0)


def test_half_of_a_pixel_that_is_void():
    """Moved by half a pixel, an edge to void pixels stays as inside as what is known of it."""
    stored = jnp.asarray(np.array([1, 1, VOID, VOID, 0, 0]).reshape(1, 1, 6, 1), jnp.uint8)
    half = lambda x, order=(): (x[:, :, 1:] + x[:, :, :-1]) / 2
    mask, known = losses.Truth.of_stored(stored, void=True).moved(half)
    np.testing.assert_allclose(known.ravel(), [1, 0.5, 0, 0.5, 1])
    np.testing.assert_allclose(mask.ravel(), [1, 1, 0, 0, 0])


def test_cross_entropy_of_what_is_known():
    """What is unknown adds nothing, whatever is predicted of it."""
    logits = special.logit(np.array([[0.8, 0.3, 0.5], [0.9, 0.1, 0.2]]))
    label = jnp.array([[1, -1, 1], [-1, -1, -1]])
    loss = lambda x: losses.cross_entropy(logits=x, label=label).sum()
    got, gradient = jax.value_and_grad(loss)(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(got, -np.log([0.8, 0.5]).sum() / 3, rtol=1e-5)
    np.testing.assert_allclose(gradient, [[-0.2 / 3, 0, -0.5 / 3], [0, 0, 0]], rtol=1e-5)
