"""Your own images: some with a mask, some with a class label, most with neither.

    python launch.py --config=configs/folder.py:images=DIR,masks=DIR,labels=CSV --workdir=runs/own

Arguments: images, masks (a folder of the same names, or of a folder for each class), labels (a
table image,label, or image and a column of 0 and 1 for each finding), of which masks or labels may
be left out; method (one of the recipe's, configs/consistency.py, by default the fullest that the
data allow, or of configs/multimix.py); seg_labels, cls_labels (how many may be used, a number or
"all"); size; steps; fit (squash or pad); channels (1 or 3); seed. docs/own_data.md has the formats,
and how long it takes.
"""

from ml_collections import ConfigDict

from configs import common, consistency, multimix


def get_config(arguments: str | None = None) -> ConfigDict:
    args = common.parse_arguments(
        arguments,
        **dict(images="", masks="", labels="", method="", seg_labels="all", cls_labels="all"),
        fit="squash",
        **dict(size=128, steps=1000, channels=1, seed=0),
    )
    if not args["images"] or not (args["masks"] or args["labels"]):
        raise common.ConfigError(
            "--config=configs/folder.py needs a folder of images, and masks or labels of some of "
            "them: configs/folder.py:images=DIR,masks=DIR,labels=CSV"
        )
    fullest = "consistency" if args["masks"] and args["labels"] else "unet_augmented"
    method = str(args["method"] or (fullest if args["masks"] else "consistency_classes"))
    common.choose("method", method, {**multimix.SYSTEMS, **consistency.SYSTEMS})
    module = consistency if method in consistency.SYSTEMS else multimix
    c = module.get_config(f"method={method}")
    c.keep_largest = -1  # the recipe's two are those of lungs
    for name in ("seed", "size", "steps", "fit", "seg_labels", "cls_labels"):
        c[name] = args[name]
    for name in ("images", "masks", "labels"):
        c.folder[name] = args[name]
    c.seg_data = c.cls_data = "folder"
    c.test_data = "folder=test"
    c.model.in_channels = args["channels"]
    c.model.num_classes = c.model.mask_channels = 0  # as many as the data have
    for key, needed in (("masks", c.model.use_decoder), ("labels", c.model.use_classifier)):
        if needed and not args[key]:
            raise common.ConfigError(
                f"method={c.system} learns from {key}; add {key}=... to "
                "--config=configs/folder.py, or choose a method without"
            )
    return c
