"""Writes a trained network as one program that runs without this package.

    multimix-export runs/quickstart OUT                    # StableHLO, for JAX
    multimix-export runs/quickstart OUT --format=onnx --which=last

The program takes 8-bit images, grey or in colour as in training, of any number and any sides, does
the resizing, or the padding, itself, and gives mask and class probabilities and the saliency.
"""

import pathlib

from multimix_jax import atomic
from multimix_jax.commands.ends import add_which, ends_quietly, make_parser
from multimix_jax.runs.export import FORMATS, export_run


@ends_quietly()
def main() -> None:
    """Command line, see the top of the file."""
    parser = make_parser("multimix-export", __doc__)
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
    with atomic.writing("out", arguments.out):
        export_run(arguments.checkpoint, arguments.out, arguments.which, arguments.format)
    print(f"{arguments.out} is written")
