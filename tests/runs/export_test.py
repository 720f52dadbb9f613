"""Tests of multimix_jax.runs.export and of its command."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import pytest

from configs import dtml
from data_pipelines.files.images import resize_image
from data_pipelines.resize import ResizeSpec
from multimix_jax.commands import export as command_of_export
from multimix_jax.errors import UsageError
from multimix_jax.evaluation.calibration import Calibration
from multimix_jax.labels import LabelSpec
from multimix_jax.names import Checkpoint
from multimix_jax.runs import export, trained_model
from multimix_jax.runs.record import FinishedRun
from multimix_jax.runs.trained_model import read_model
from tests.random_runs import write_run
from tests.small_runs import small_config

SIZE = 16
BATCHES = {"one": (1, SIZE, SIZE), "three": (3, SIZE, SIZE)}
OTHERS = ("flax", "multimix_jax", "optax", "orbax", "chex", "data_pipelines", "launch")
# Loads by the lines of the README, with everything blocked that they shall not need.
LOADER = """
import sys
sys.modules.update(dict.fromkeys({blocked}))
{setup}
for name in {names}:
    images = np.load(f"../{{name}}.npy")
    {call}
    np.savez(f"../{{name}}.npz", **found)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a small MultiMix, and by name of a batch: the images and what they shall give."""
    folder = tmp_path_factory.mktemp("export")
    config = small_config(folder, size=SIZE)
    predictor, variables = write_run(folder / "run", config)
    rng = np.random.default_rng(1)
    wanted = {}
    for name, shape in BATCHES.items():
        images = rng.integers(0, 256, (*shape, 1)).astype(np.uint8)
        np.save(folder / f"{name}.npy", images)
        wanted[name] = predictor([variables], images)
    return SimpleNamespace(folder=folder, path=folder / "run", wanted=wanted)


def check_reloaded(run, out, *, blocked, atol):
    """In a process of its own, what the README says gives what `Predictor` gives."""
    code = re.search(r"```python\n(.*)```", (out / "README.md").read_text(), re.DOTALL)[1]
    lines = code.splitlines()
    assert len(lines) == 5
    program = LOADER.format(
        blocked=blocked, setup="\n".join(lines[:2]), names=[*run.wanted], call=lines[3]
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=out, capture_output=True, text=True, env=_env()
    )
    assert result.returncode == 0, result.stderr
    for name, want in run.wanted.items():
        with np.load(run.folder / f"{name}.npz") as predictions:
            assert set(predictions) == set(want)
            for part, value in want.items():
                assert predictions[part].shape == value.shape
                np.testing.assert_allclose(predictions[part], value, atol=atol, err_msg=part)


def _env():
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def command(*arguments):
    """`multimix-export`, in this process."""
    argv = ["export", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv):
        command_of_export.main()


def test_stablehlo_needs_nothing_but_jax_and_numpy(run, capsys):
    out = run.folder / "stablehlo"
    command(run.path, out)
    assert capsys.readouterr().out == f"{out} is written\n"
    check_reloaded(run, out, blocked=(*OTHERS, "tensorflow"), atol=1e-5)
    program = jax.export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    described = json.loads((out / "model.json").read_text())
    assert described["inputs"]["images"] == {
        "shape": ["batch", "height", "width", 1],
        "dtype": "uint8",
        "range": [0, 255],
    }
    assert described["outputs"] == {
        "classes": {"shape": ["batch", 2], "dtype": "float32"},
        "mask": {"shape": ["batch", SIZE, SIZE, 1], "dtype": "float32"},
        "saliency": {"shape": ["batch", SIZE, SIZE, 1], "dtype": "float32"},
    }
    assert described["source"] == {
        "run": "run",
        "checkpoint": "best",
        "step": 0,
        "system": "multimix",
        "method": "multimix",
    }
    assert (described["size"], described["labels"]["class_names"]) == (SIZE, [])


def export_or_skip(run, out, form, words):
    """Other libraries may lag behind the newest JAX; they are skipped, and leave nothing behind."""
    try:
        export.export_run(run.path, out, Checkpoint.BEST, form)
    except UsageError as error:
        assert re.search(words, str(error))
        assert not out.exists()
        pytest.skip(str(error))


@pytest.mark.filterwarnings("ignore")  # of TensorFlow
def test_saved_model(run):
    pytest.importorskip("jax.experimental.jax2tf")
    out = run.folder / "saved_model"
    export_or_skip(run, out, "saved_model", "TensorFlow .* cannot read the programs of JAX")
    check_reloaded(run, out, blocked=(*OTHERS, "jax"), atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of jax2onnx
def test_onnx(run):
    pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    out = run.folder / "onnx"
    export_or_skip(run, out, "onnx", "jax2onnx cannot convert this network with JAX .* has no attr")
    check_reloaded(run, out, blocked=(*OTHERS, "jax", "tensorflow"), atol=1e-4)


@pytest.mark.parametrize("sides", [(SIZE, SIZE), (40, 71), (9, 33)])
def test_images_are_resized_as_in_preparation(sides):
    """By Pillow; float32 and float64 may round to neighbouring grey values now and then."""
    images = np.random.default_rng(0).integers(0, 256, (2, *sides, 1)).astype(np.uint8)
    resized = export.fit_images(images, SIZE, "squash")
    want = np.stack([resize_image(image[..., 0], SIZE, SIZE) for image in images])[..., None]
    differences = np.abs(np.asarray(resized, int) - want)
    assert differences.max() <= (0 if sides == (SIZE, SIZE) else 1)
    assert (differences > 0).mean() < 0.01


@pytest.mark.parametrize("sides", [(SIZE, SIZE), (40, 71), (33, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_padded_as_in_preparation(sides, channels):
    shape = (2, *sides, channels)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    resized = export.fit_images(images, SIZE, "pad")
    spec = ResizeSpec(SIZE, "pad", channels)
    want = np.stack([spec.image(image[..., 0] if channels == 1 else image) for image in images])
    differences = np.abs(np.asarray(resized, int) - want)
    assert differences.max() <= 1
    assert (differences > 0).mean() < 0.01


def test_networks_without_a_classifier(tmp_path):
    """Two networks with batch norm: no saliency, no classes, but more masks."""
    config = dtml.get_config("data=jsrt,filters=2")
    config.size, config.model.convolutions = SIZE, (1, 1)
    predictor, variables = write_run(tmp_path / "run", config)
    export.export_run(tmp_path / "run", tmp_path / "out", Checkpoint.BEST, "stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "out/model.stablehlo").read_bytes()))
    images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 1)).astype(np.uint8)
    predictions, want = program.call(images), predictor([variables], images)
    assert set(predictions) == set(want) == {"mask", "mask_sdf", "mask_average", "distance"}
    for name, value in want.items():
        np.testing.assert_allclose(predictions[name], value, atol=1e-5, err_msg=name)


def test_the_dtype_is_that_of_the_training_or_another(tmp_path):
    config = small_config(tmp_path, size=SIZE, dtype="bfloat16")
    write_run(tmp_path, config)
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 1), np.uint8)
    for dtype, there in ((None, True), ("float32", False)):
        program = export.Program(read_model(tmp_path, Checkpoint.BEST, dtype))
        assert ("bf16" in str(jax.make_jaxpr(program.serve)(images))) == there


def test_labels_come_from_the_data_and_the_calibration_from_the_evaluation(tmp_path):
    labels = LabelSpec(("well", "ill"), mask_names=("lung", "heart"))
    config = small_config(tmp_path, size=SIZE)
    write_run(tmp_path / "run", config, labels=labels)
    chosen = {"step": -1, "temperature": 3.0, "threshold": 0.25}
    evaluated = FinishedRun(tmp_path, {}, None, labels, {"run": {Checkpoint.BEST: chosen}}, {})
    with mock.patch.object(trained_model, "read_run", return_value=evaluated):
        model = read_model(tmp_path / "run", Checkpoint.BEST)
        assert model.labels == labels
        assert model.calibration == Calibration()  # of other weights
        chosen["step"] = model.source["step"]
        assert read_model(tmp_path / "run", Checkpoint.BEST).calibration == Calibration(3.0, 0.25)


def test_whole_or_not_at_all(run, tmp_path):
    def fail(model, folder):
        (folder / "model.stablehlo").write_bytes(b"half")
        raise OSError("the disk is full")

    with mock.patch.dict(export.FORMATS, stablehlo=fail):
        with pytest.raises(OSError, match="full"):
            export.export_run(run.path, tmp_path / "out", Checkpoint.BEST, "stablehlo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent", "out"), r"absent holds no run \(config.json cannot be read: No such"),
        (("run", "run"), "run exists already; name a new folder"),
        (("run", "no/out"), "no is not a folder; name a new folder in one that exists"),
        (("run", "out", "--which=last"), "holds no 'last' checkpoint; ask for the 'best' one"),
        (("damaged", "out"), "config.json is damaged"),
        (("lacking", "out"), "config.system is missing"),
        (("windows", "out"), "predicts volumes, or window by window"),
        (("wider", "out"), "cannot be read"),
        (("begun", "out"), "begun holds no checkpoints"),
    ],
)
def test_faults(run, arguments, words):
    folder = run.folder
    config = json.loads((run.path / "config.json").read_text())
    texts = {
        "damaged": "{",
        "lacking": "{}",
        "windows": json.dumps(
            config | {"window": config["window"] | {"patch": [8, 8], "stride": [4, 4]}}
        ),
        "wider": json.dumps(config | {"model": config["model"] | {"filters": [4, 16]}}),
        "begun": json.dumps(config),
    }
    source, target, *flags = arguments
    if source in texts:
        (folder / source).mkdir()
        (folder / source / "config.json").write_text(texts[source])
        (folder / source / "labels.json").write_text((run.path / "labels.json").read_text())
    if source == "wider":
        (folder / source / "checkpoints").symlink_to(run.path / "checkpoints")
    before = set(folder.iterdir())
    with pytest.raises(SystemExit, match=rf"(?s)^error: .*{words}"):
        command(folder / source, folder / target, *flags)
    assert set(folder.iterdir()) == before


def test_a_missing_library_is_named(run):
    message = "^error: this format needs jax2onnx: pip install"
    with mock.patch.dict(sys.modules, jax2onnx=None), pytest.raises(SystemExit, match=message):
        command(run.path, run.folder / "x", "--format=onnx")
    assert not (run.folder / "x").exists()
