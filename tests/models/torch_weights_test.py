import jax
import jax.numpy as jnp
import numpy as np
import pytest

from multimix_jax.errors import UsageError
from multimix_jax.models import MultiMix, torch_weights

FILTERS = (2, 3, 4)


def authors(*, bridge=True, classifier=True, decoder=True):
    """A state dict of the released code, with few filters, written out from its definition."""
    rng = np.random.default_rng(0)
    shapes = {}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    for block, channels, width in (
        ("encoder.dconv_down1", 1, 2),
        ("encoder.dconv_down2", 2, 3),
        ("encoder.dconv_down3", 3, 4),
        *[
            ("decoder.dconv_up2", 4 + 3 + (2 if bridge else 0), 3),
            ("decoder.dconv_up1", 3 + 2, 2),
        ][: 2 if decoder else 0],
    ):
        layer(f"{block}.0", width, channels, 3, 3)
        layer(f"{block}.3", width, width, 3, 3)
    if classifier:
        layer("encoder.fc", 2, 4)
    if decoder:
        layer("decoder.conv_last", 1, 2, 1, 1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"bridge": False},
        {"bridge": False, "decoder": False},
        {"bridge": False, "classifier": False},
    ],
)
def test_has_the_shapes_of_the_model(parts):
    state = authors(**parts)
    model = MultiMix(
        filters=FILTERS,
        use_bridge=parts.get("bridge", True),
        use_classifier=parts.get("classifier", True),
        use_decoder=parts.get("decoder", True),
    )
    params = torch_weights.from_torch(state)
    images = jnp.zeros((1, 8, 8, 1))
    want = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, want)


def test_there_and_back():
    state = authors()
    back = torch_weights.to_torch(torch_weights.from_torch(state))
    assert set(back) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value)


def test_unused_layer_is_passed_over():
    unused = {"decoder.conv_last_saliency.weight": np.zeros((1, 64, 1, 1))}
    assert "decoder" in torch_weights.from_torch(authors() | unused)


def test_every_fault_is_named():
    state = authors()
    del state["encoder.dconv_down2.3.bias"]
    state["encoder.extra"] = np.zeros(3)
    with pytest.raises(UsageError, match="down2.3.bias is missing; encoder.extra is surplus"):
        torch_weights.from_torch(state)
    state = authors()
    state["decoder.dconv_up1.0.weight"] = np.zeros((2, 6, 3, 3))
    state["encoder.fc.bias"] = np.zeros(3)
    with pytest.raises(UsageError, match=r"fc.bias is \[3\].*up1.0.weight is \[2, 6, 3, 3\]"):
        torch_weights.from_torch(state)
    with pytest.raises(UsageError, match="no encoder.dconv_down1.0.weight"):
        torch_weights.from_torch({})


def test_names_beyond_all_measure():
    """Neither a level of a billion nor a thousand surplus names fill memory or screen."""
    state = {f"encoder.dconv_down{10**9 + i}.0.weight": np.zeros(1) for i in range(1000)}
    with pytest.raises(UsageError, match="is surplus; and 960 more$") as caught:
        torch_weights.from_torch(state)
    assert len(str(caught.value)) < 4000


def test_values_that_are_not_finite():
    state = authors()
    state["encoder.fc.bias"] = np.array([0, 1e300])
    with pytest.raises(UsageError, match="fc.bias holds values that are not finite"):
        torch_weights.from_torch(state)
