"""The wheel, installed alone in an environment of its own: train, evaluate, predict, export."""

import os
import pathlib
import subprocess
import sys
import venv

import numpy as np
import pytest
from PIL import Image

import launch

ROOT = pathlib.Path(launch.__file__).parent
QUICK = ("--config.steps=6", "--config.eval_every=3", "--config.checkpoint_every=3")


@pytest.mark.slow
def test_the_wheel_alone(tmp_path):
    """Needs a package index; takes some minutes."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JAX_", "XDG_", "XLA_"))
    }
    env = kept | {"HOME": str(home), "JAX_PLATFORMS": "cpu"}

    def run(*command):
        done = subprocess.run(
            [str(part) for part in command], cwd=home, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    commands = tmp_path / "venv" / "bin"
    run(commands / "pip", "install", wheel)
    where = run(commands / "python", "-c", "import multimix_jax; print(multimix_jax.__file__)")
    assert str(tmp_path / "venv") in where

    train = (commands / "multimix-train", "--config=configs/quickstart.py", "--workdir=run", *QUICK)
    assert "phantom_seg_a" in run(*train)
    assert "phantom_seg_a" in run(*train, "--mode=eval")
    assert "is finished" in run(*train)
    Image.fromarray(np.full((90, 70), 120, np.uint8)).save(home / "scan.png")
    assert "1 of 1 images" in run(
        *(commands / "multimix-predict", "run", "scan.png", "--out", "found", "--which", "last")
    )
    with Image.open(home / "found" / "masks" / "scan.png") as mask:
        assert mask.size == (70, 90)
    run(commands / "multimix-export", "run", "program")
    assert (home / "program" / "model.stablehlo").stat().st_size > 0
    run(commands / "multimix-report", "run", "--html")
    assert "<svg" in (home / "run" / "report.html").read_text()
    assert "PyTorch" in run(commands / "multimix-convert", "--help")
