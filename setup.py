"""Packaging of multimix_jax."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "multimix_jax" / "__init__.py").read_text(encoding="utf-8")
)
assert VERSION is not None

TEST = [
    "ipykernel>=7.4",
    "mypy>=1.15",
    "nbclient>=0.11",
    "nbformat>=5.11",
    "pytest>=8.3",
    "pytest-xdist>=3.8",
    "ruff>=0.9",
    "scikit-learn>=1.6",
    "selenium>=4.30",
]

setup(
    name="multimix_jax",
    version=VERSION.group(1),
    description="MultiMix and DTML in JAX/Flax: classify and segment medical images, few labels",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["multimix_jax*", "data_pipelines*", "configs*"]),
    package_data={
        "multimix_jax": [
            *("__init__.pyi", "py.typed", "reporting/published.csv"),
            *("reporting/page.css", "reporting/page.html", "reporting/page.js"),
            *("reporting/model_card.md", "runs/export.md"),
        ],
        "data_pipelines": ["py.typed"],
    },
    py_modules=["launch"],
    entry_points={
        "console_scripts": [
            "multimix-audit = data_pipelines.audit:run",
            "multimix-convert = multimix_jax.commands.convert:main",
            "multimix-export = multimix_jax.commands.export:main",
            "multimix-predict = launch:predict",
            "multimix-report = multimix_jax.commands.report:main",
            "multimix-train = launch:run",
        ]
    },
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.7",
        "chex>=0.1.90",
        "dm-pix>=0.4.3",
        "flatbuffers>=25.9",  # jax.export needs it, and does not say so
        "flax>=0.12.0",
        "h5py>=3.12",
        "imagecodecs>=2026.3.6",
        "importlib_resources>=6.4",  # tensorflow-datasets needs it, and does not say so
        "jax>=0.8.0",
        "jinja2>=3.1",
        "lazy-loader>=0.4",
        "matplotlib>=3.9",
        "ml-collections>=1.0.0",
        "nibabel>=5.3",
        "numpy>=2.0",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.25",
        "pillow>=11.0",
        "pydicom>=3.0",
        "scikit-image>=0.25",
        "scipy>=1.15",
        "tabulate>=0.9",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "tqdm>=4.66",
        # For tf.data alone; the CPU build is a third of the download.
        "tensorflow-cpu>=2.20; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "tensorflow>=2.20; platform_system != 'Linux' or platform_machine != 'x86_64'",
    ],
    extras_require={
        "test": TEST,
        "bench": ["torch>=2.9"],
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.32"],
        "parity": [*TEST, "medpy>=0.5.2", "torch>=2.9"],
        "cuda": ["jax[cuda12]>=0.8.0"],
        "tpu": ["jax[tpu]>=0.8.0"],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
