"""A trained network as a file that runs without this package: in JAX, TensorFlow or ONNX Runtime.

    multimix-export runs/quickstart OUT                    # StableHLO, for JAX
    multimix-export runs/quickstart OUT --format=onnx --which=last

The program takes 8-bit images, grey or in colour as in training, of any number and any sides, and
does the resizing, or the padding, itself.
"""

import argparse
import pathlib

from multimix_jax.commands.ends import ends_quietly
from multimix_jax.commands.options import add_which
from multimix_jax.errors import UsageError
from multimix_jax.runs.export import FORMATS, export_run


@ends_quietly()
def main() -> None:
    """Command line, see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="multimix-export",
        description="Writes a trained network as one program, with the resizing of the images, "
        "that gives mask and class probabilities and the saliency without this package.",
        epilog="example: multimix-export runs/quickstart OUT --format=onnx",
    )
    parser.add_argument("checkpoint", type=pathlib.Path, help="folder of a run")
    parser.add_argument("out", type=pathlib.Path, help="new folder, for the program and its README")
    add_which(parser)
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="stablehlo",
        help="for JAX, ONNX Runtime or TensorFlow (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        export_run(arguments.checkpoint, arguments.out, arguments.which, arguments.format)
    except UsageError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.out} is written")
