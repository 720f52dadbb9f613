"""Tests of multimix_jax.commands.convert."""

import contextlib
import io
import json
import pathlib
import pickle
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from multimix_jax.commands import convert
from multimix_jax.errors import UsageError
from multimix_jax.models.multimix import MultiMix
from tests.small_runs import launch_main, prepare_phantoms, small_config

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


class ConvertTest(parameterized.TestCase):
    @parameterized.parameters(
        dict(),
        dict(bridge=False),
        dict(bridge=False, decoder=False),
        dict(bridge=False, classifier=False),
    )
    def test_has_the_shapes_of_the_model(self, **parts):
        state = authors(**parts)
        model = MultiMix(
            filters=FILTERS,
            use_bridge=parts.get("bridge", True),
            use_classifier=parts.get("classifier", True),
            use_decoder=parts.get("decoder", True),
        )
        params = convert.from_torch(state)
        images = jnp.zeros((1, 8, 8, 1))
        want = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        self.assertEqual(jax.tree.map(jnp.shape, params), jax.tree.map(jnp.shape, want))

    def test_there_and_back(self):
        state = authors()
        back = convert.to_torch(convert.from_torch(state))
        self.assertEqual(set(back), set(state))
        for name, value in state.items():
            np.testing.assert_array_equal(back[name], value)

    def test_unused_layer_is_passed_over(self):
        unused = {"decoder.conv_last_saliency.weight": np.zeros((1, 64, 1, 1))}
        self.assertIn("decoder", convert.from_torch(authors() | unused))

    def test_every_fault_is_named(self):
        state = authors()
        del state["encoder.dconv_down2.3.bias"]
        state["encoder.extra"] = np.zeros(3)
        with self.assertRaisesRegex(
            UsageError, "down2.3.bias is missing; encoder.extra is surplus"
        ):
            convert.from_torch(state)
        state = authors()
        state["decoder.dconv_up1.0.weight"] = np.zeros((2, 6, 3, 3))
        state["encoder.fc.bias"] = np.zeros(3)
        with self.assertRaisesRegex(
            UsageError, r"fc.bias is \[3\].*up1.0.weight is \[2, 6, 3, 3\]"
        ):
            convert.from_torch(state)
        with self.assertRaisesRegex(UsageError, "no encoder.dconv_down1.0.weight"):
            convert.from_torch({})

    def test_names_beyond_all_measure(self):
        """Neither a level of a billion nor a thousand surplus names fill memory or screen."""
        state = {f"encoder.dconv_down{10**9 + i}.0.weight": np.zeros(1) for i in range(1000)}
        with self.assertRaisesRegex(UsageError, "is surplus; and 960 more$") as caught:
            convert.from_torch(state)
        self.assertLess(len(str(caught.exception)), 4000)

    def test_values_that_are_not_finite(self):
        state = authors()
        state["encoder.fc.bias"] = np.array([0, 1e300])
        with self.assertRaisesRegex(UsageError, "fc.bias holds values that are not finite"):
            convert.from_torch(state)


class FilesTest(parameterized.TestCase):
    """The command line; PyTorch files need PyTorch."""

    def setUp(self):
        super().setUp()
        self.torch = pytest.importorskip("torch")
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.file = self.folder / "theirs.pth"
        state = {name: self.torch.tensor(value) for name, value in authors().items()}
        self.torch.save(state, self.file)

    def run_command(self, *arguments):
        """What is printed on stderr, '' where all went well."""
        errors = io.StringIO()
        argv = ["convert", *map(str, arguments)]
        with mock.patch.object(sys, "argv", argv), contextlib.redirect_stderr(errors):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    convert.main()
            except SystemExit as stop:
                self.assertEqual(stop.code, 1)
                self.assertTrue(errors.getvalue().startswith("error: "))
        return errors.getvalue()

    def test_there_and_back(self):
        self.assertEqual(self.run_command(self.file, self.folder / "out"), "")
        back = self.folder / "ours.pth"
        self.assertEqual(self.run_command(self.folder / "out", back, "--last"), "")
        found = self.torch.load(back, weights_only=True)
        want = authors()
        self.assertEqual(set(found), set(want))
        for name, value in want.items():
            np.testing.assert_array_equal(found[name], value)
        self.assertEqual(
            {path.name for path in self.folder.iterdir()}, {"theirs.pth", "out", "ours.pth"}
        )

    def test_converted_weights_are_evaluated(self):
        """By launch.py, with the predictions that the same weights give in PyTorch's format."""
        prepare_phantoms(self.folder / "prepared")
        out = self.folder / "out"
        self.run_command(self.file, out)
        config = small_config(self.folder / "prepared", **{"model.filters": FILTERS})
        launch_main(config, out, "eval")
        results = json.loads((out / "results.json").read_text())
        self.assertEqual(set(results), {"run", "last", "baseline"})
        self.assertIn("dice", results["last"]["phantom_seg_a"])
        with self.assertRaisesRegex(SystemExit, "is not empty and holds no run"):
            launch_main(config, out, "train")

    @parameterized.parameters(
        ({"a": (0, 0)}, "a claims to be .*, more than the file holds"),
        ({"a": (1, 1), "b": (0, 0)}, "b claims to be .*, more than the file holds"),
    )
    def test_tensors_that_claim_more_than_is_there(self, strides, words):
        """As expanded ones do: a few bytes would become any number of them."""
        few = self.torch.zeros(4)
        state = {
            name: self.torch.as_strided(few, (2**20, 2**20) if not any(s) else (2, 2), s)
            for name, s in strides.items()
        }
        self.torch.save(state, self.file)
        message = self.run_command(self.file, self.folder / "out")
        self.assertRegex(message, words)

    def test_complex_tensors(self):
        self.torch.save({"a": self.torch.zeros(2, dtype=self.torch.complex64)}, self.file)
        self.assertIn("a holds complex numbers", self.run_command(self.file, self.folder / "out"))

    def test_a_file_of_other_weights_is_named(self):
        self.torch.save({"a\nb": self.torch.zeros(2)}, self.file)
        message = self.run_command(self.file, self.folder / "out")
        self.assertRegex(message, r"theirs.pth holds not the weights .*; name a state dict of the")
        self.assertIn(r"a\nb is surplus", message)

    def test_nothing_but_tensors_is_read(self):
        with self.file.open("wb") as file:
            pickle.dump({"encoder": pathlib.Path()}, file)
        message = self.run_command(self.file, self.folder / "out")
        self.assertIn(f"{self.file} holds no PyTorch state dict", message)
        self.assertFalse((self.folder / "out").exists())

    @parameterized.parameters(
        ("absent.pth", "out", "absent.pth holds no PyTorch state dict .*No such file"),
        ("theirs.pth", ".", "exists already; name a new folder"),
        (".", "x.pth", "holds no checkpoints; name the folder of a run"),
        (".", "theirs.pth", "theirs.pth exists already, .* name a new file"),
        (".", "no/x.pth", "x.pth exists already, or its folder does not"),
    )
    def test_faults(self, source, target, words):
        message = self.run_command(self.folder / source, self.folder / target)
        self.assertRegex(message, words)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["theirs.pth"])

    def test_the_best_of_converted_weights_is_not_known(self):
        self.run_command(self.file, self.folder / "out")
        message = self.run_command(self.folder / "out", self.folder / "x.pth")
        self.assertIn("holds no 'best' checkpoint; ask for the 'last' one", message)


if __name__ == "__main__":
    absltest.main()
