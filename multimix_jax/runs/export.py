"""A trained network as a file that runs without this package: in JAX, TensorFlow or ONNX Runtime.

The program takes 8-bit images, grey or in colour as in training, of any number and any sides, and
does the resizing, or the padding, itself.
"""

import dataclasses
import importlib
import importlib.metadata
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.extend.core
import jax.numpy as jnp
import jinja2
from jax.interpreters import partial_eval

from multimix_jax import __version__, atomic
from multimix_jax.errors import UsageError
from multimix_jax.inference.predictor import Predictor
from multimix_jax.names import Checkpoint
from multimix_jax.ops import platform
from multimix_jax.runs import workdir
from multimix_jax.runs.trained_model import TrainedModel, read_model

Written = tuple[str, dict[str, str]]  # name of the program in its folder, versions of libraries

PLATFORMS = ("cpu", "cuda", "tpu")
IMAGES = "images"  # name of the argument
AXES = ("batch", "height", "width")


def fit_images(images: jax.Array, size: int, fit: str) -> jax.Array:
    """uint8 [B,H,W,C] of any sides -> uint8 [B,size,size,C]: bilinear and antialiased.

    `fit` is 'squash', or 'pad' to keep the ratio of height and width, with black beside.
    """
    shape = (images.shape[0], size, size, images.shape[-1])
    values = images.astype(jnp.float32)
    if fit == "squash":
        resized = jax.image.resize(values, shape, "linear", antialias=True)
    else:
        sides = jnp.array([jnp.asarray(side, jnp.float32) for side in images.shape[1:3]])
        covered = jnp.maximum(jnp.round(sides * (size / sides.max())), 1)
        first = jnp.floor((size - covered) / 2)
        resized = jax.image.scale_and_translate(
            values, shape, (1, 2), covered / sides, first, "linear", antialias=True
        )
    return jnp.clip(jnp.rint(resized), 0, 255).astype(jnp.uint8)


class Program:
    """What is exported of a trained network: `serve`, and the shapes of its argument and results.

    `serve` takes uint8 [B,H,W,C] of any sides and gives what `Predictor.predict` does, at the
    network's side.
    """

    def __init__(self, model: TrainedModel) -> None:
        predictor = Predictor([model.member], saliency="gradient")

        def serve(images: jax.Array) -> dict[str, jax.Array]:
            fitted = fit_images(images, model.size, model.spec.data.fit)
            outputs = predictor.predict([model.variables], fitted)
            return {str(name): values for name, values in outputs.items()}

        self.model, self.serve = model, serve
        self.sides = f"{', '.join(AXES)}, {model.channels}"
        shape = jax.export.symbolic_shape(self.sides)
        self.argument = jax.ShapeDtypeStruct(shape, jnp.uint8)
        self.result = jax.eval_shape(serve, self.argument)


def export_run(source: pathlib.Path, target: pathlib.Path, which: Checkpoint, form: str) -> None:
    """The network of a run -> a new folder of the program, `model.json` and `README.md`.

    The folder is written whole or not at all. `form` is one of FORMATS. UsageError: see
    `read_model`; or the target is taken, or a library is missing.
    """
    workdir.check_new(target)
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is not a folder; name a new folder in one that exists")
    # ONNX Runtime has no convolutions of bfloat16 on CPU.
    model = read_model(source, which, dtype="float32" if form == "onnx" else None)
    program = Program(model)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as scratch:
        folder = pathlib.Path(scratch, "out")
        folder.mkdir()
        file, versions = FORMATS[form](program, folder)
        described = {"format": form, "file": file, **_described(program)}
        described["versions"] |= versions
        atomic.write_json(folder / "model.json", described)
        template = pathlib.Path(__file__).with_name("export.md").read_text(encoding="utf-8")
        environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
        readme = environment.from_string(template).render(described)
        atomic.write_text(folder / "README.md", readme)
        folder.replace(target)


def _described(program: Program) -> dict[str, Any]:
    """What a program needs to know of the network, as JSON values."""
    model = program.model
    shown = lambda leaf: {
        "shape": [side if isinstance(side, int) else str(side) for side in leaf.shape],
        "dtype": str(leaf.dtype),
    }
    return {
        "inputs": {IMAGES: shown(program.argument) | {"range": [0, 255]}},
        "outputs": {name: shown(leaf) for name, leaf in program.result.items()},
        "labels": dataclasses.asdict(model.labels),
        "calibration": dataclasses.asdict(model.calibration),
        "size": model.size,
        "fit": model.spec.data.fit,
        "keep_largest": model.member.components,
        "source": model.source,
        "versions": {"multimix_jax": __version__, "jax": jax.__version__},
    }


def write_stablehlo(program: Program, folder: pathlib.Path) -> Written:
    """Writes `model.stablehlo`, for JAX on any of PLATFORMS."""
    exported = jax.export.export(jax.jit(program.serve), platforms=PLATFORMS)(program.argument)
    (folder / "model.stablehlo").write_bytes(exported.serialize())
    return "model.stablehlo", {}


def write_saved_model(program: Program, folder: pathlib.Path) -> Written:
    """Writes `saved_model/`, whose one signature has the names of `model.json`.

    The program within is the same StableHLO, for any of PLATFORMS; UsageError where TensorFlow is
    older than that of this JAX.
    """
    jax2tf, tf = (
        _library(name, "pip install tensorflow-cpu")
        for name in ("jax.experimental.jax2tf", "tensorflow")
    )
    tf.config.set_visible_devices([], "GPU")  # accelerators belong to JAX
    converted = jax2tf.convert(
        program.serve,
        polymorphic_shapes=[f"({program.sides})"],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    argument = tf.TensorSpec((None, None, None, program.model.channels), tf.uint8, name=IMAGES)
    serve = tf.function(converted, input_signature=[argument], autograph=False)
    try:
        serve(tf.zeros((1, 1, 1, program.model.channels), tf.uint8))
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(
            f"TensorFlow {tf.__version__} cannot read the programs of JAX {jax.__version__}; "
            "install an older JAX (pip install -c constraints.txt jax), or use another --format"
        ) from error
    tf.saved_model.save(  # the signature alone: an attribute would be the program once more
        tf.Module(),
        os.fspath(folder / "saved_model"),
        signatures=serve.get_concrete_function(),
    )
    return "saved_model", {"tensorflow": tf.__version__}


def write_onnx(program: Program, folder: pathlib.Path) -> Written:
    """Writes `model.onnx`, in which the saliency is a graph like the rest; UsageError where
    jax2onnx is missing, or does not know an operation or this JAX."""
    jax2onnx = _library("jax2onnx", "pip install -e '.[onnx]'")
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # tells of every value without a type
    with platform.portable():  # ONNX cannot ask for one
        traced, result = jax.make_jaxpr(program.serve, return_shape=True)(program.argument)
    # The gradient to the kernels, which the saliency does not need, has no form in ONNX.
    used, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.out_avals), instantiate=True)
    # Once traced, since jax2onnx puts layers of its own, without gradients, in place of Flax's.
    function = jax.extend.core.jaxpr_as_fun(traced.replace(jaxpr=used))
    try:
        converted = jax2onnx.to_onnx(
            function,
            inputs=[program.argument],
            input_names=[IMAGES],
            output_names=sorted(result),  # the order in which JAX takes a dictionary apart
            model_name=program.model.source["system"],
        )
    except (AttributeError, NotImplementedError) as error:  # of JAX, or of an operation
        raise UsageError(
            f"jax2onnx cannot convert this network with JAX {jax.__version__} ({error}); install "
            "an older JAX (pip install -c constraints.txt jax), or use another --format"
        ) from error
    (folder / "model.onnx").write_bytes(converted.SerializeToString())
    return "model.onnx", {"jax2onnx": importlib.metadata.version("jax2onnx")}


def _library(name: str, remedy: str) -> Any:
    """One that nothing else here needs."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"this format needs {error.name}: {remedy}") from error


FORMATS: dict[str, Callable[[Program, pathlib.Path], Written]] = {
    "stablehlo": write_stablehlo,
    "onnx": write_onnx,
    "saved_model": write_saved_model,
}
