"""MultiMix on CheX and JSRT, tested there and on NIHX and MCU; and the systems it is compared to.

    python launch.py --config=configs/multimix.py:seg_labels=10,cls_labels=100,size=64 \\
        --config.data_dir=DIR --workdir=runs/multimix

Arguments: method (one of SYSTEMS), seg_labels, cls_labels (a number or "all"), size, seed.

The network and the loss are the published ones. Training is 1,500 steps of Adam with a learning
rate of 1e-3 and cosine decay; the published 1e-4 with a tenth every 8 epochs is
`--config.learning_rate=1e-4 --config.schedule.name=step --config.schedule.decay_every=N`, N being
what is counted as 8 epochs. docs/results.md has what came out and how long it took.
"""

import ml_collections

from configs import common

# Wires of the model and terms of the loss (Haque et al. 2021, table 1).
SYSTEMS = {
    "unet": dict(classifier=False, decoder=True, bridge=False, pseudo_labels=False, kl=False),
    "enc": dict(classifier=True, decoder=False, bridge=False, pseudo_labels=False, kl=False),
    "enc_ssl": dict(classifier=True, decoder=False, bridge=False, pseudo_labels=True, kl=False),
    "umtl": dict(classifier=True, decoder=True, bridge=False, pseudo_labels=False, kl=False),
    "umtl_s": dict(classifier=True, decoder=True, bridge=True, pseudo_labels=False, kl=False),
    "umtl_ssl": dict(classifier=True, decoder=True, bridge=False, pseudo_labels=True, kl=False),
    "umtl_ssl_s": dict(classifier=True, decoder=True, bridge=True, pseudo_labels=True, kl=False),
    "multimix": dict(classifier=True, decoder=True, bridge=True, pseudo_labels=True, kl=True),
}
ALL = tuple(SYSTEMS)  # of a grid: the published ones
FULL = "multimix"  # has all that others lack
# With the gradient through the bridge switched on, which the paper leaves out.
SYSTEMS["multimix_grad"] = dict(SYSTEMS["multimix"], bridge_gradient=True)


def get_config(arguments: str | None = None) -> ml_collections.ConfigDict:
    args = common.parse_arguments(
        arguments, method="multimix", seg_labels="10", cls_labels="100", size=256, seed=0
    )
    c = common.get_config()
    c.seed, c.size = args["seed"], args["size"]
    c.seg_labels, c.cls_labels = args["seg_labels"], args["cls_labels"]
    c.seg_data, c.cls_data = "jsrt", "chex"
    c.test_data = "jsrt=test,mcu=all,chex=test,nihx=all"
    use_system(c, args["method"])
    return c


def use_system(c: ml_collections.ConfigDict, method: str | int) -> None:
    """Takes out the wires and terms that a system of the published tables lacks."""
    system = common.choose("method", method, SYSTEMS)
    c.system = str(method)
    c.model.use_classifier = system["classifier"]
    c.model.use_decoder = system["decoder"]
    c.model.use_bridge = system["bridge"]
    c.model.bridge_gradient = system.get("bridge_gradient", c.model.bridge_gradient)
    if not system["pseudo_labels"]:
        c.objective.pseudo_label_weight = 0.0
    if not system["kl"]:
        c.objective.kl_weight = 0.0


def tasks(c: ml_collections.ConfigDict) -> tuple[bool, bool]:
    """Whether a system classifies, and whether it segments."""
    return c.model.use_classifier, c.model.use_decoder
