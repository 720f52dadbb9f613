"""Dual-task mutual learning (Zhang & Zhang 2021) and what it is compared to, in 2D and 3D.

    python launch.py --config=configs/dtml.py:data=phantom3d --workdir=runs/dtml
    python launch.py --config=configs/dtml.py:data=la,seg_labels=16 --config.data_dir=DIR \\
        --workdir=runs/la

Arguments: data, phantom3d, la, folder3d (or folder3d:SUBDIR) in 3D, jsrt (tested on MCU too) in
2D; method, one of SYSTEMS; network, vnet or, in 2D, unet; seg_labels, a number or "all"; steps;
filters, of the first level; size, of 2D images; seed.

Networks, loss, optimiser and schedule are the published ones (6,000 steps; with other `steps` the
schedule shrinks along), but for the patch of LA's halved copies, 56x56x40, and of the phantom: both
divide by 8, so V-Net has four levels there, not five. For LA at its full size add
--config.objective.patch=112,112,80 --config.window.patch=112,112,80 --config.window.stride=56,56,40
--config.model.convolutions=1,2,3,3,3. docs/results.md has what came out and how long it took.
"""

from ml_collections import ConfigDict

from configs import common

NO_SDF = {"model.use_sdf": False}
NO_MUTUAL = {"objective.mutual_weight": 0.0}
NO_TEACHER = {"objective.teacher_weight": 0.0, "ema_decay": 0.0}

# Parts of the loss that a system lacks; all else is the same.
SYSTEMS: dict[str, dict[str, bool | float]] = {
    "supervised": {**NO_SDF, **NO_MUTUAL, **NO_TEACHER},
    "mean_teacher": {**NO_SDF, **NO_MUTUAL},
    "pair": {**NO_MUTUAL, **NO_TEACHER},
    "dtml": {**NO_TEACHER},
}
ALL = tuple(SYSTEMS)
FULL = "dtml_teacher"  # has all that others lack
SYSTEMS[FULL] = {}
PATCHES = {"phantom3d": (40, 40, 24), "la": (56, 56, 40), "folder3d": (64, 64, 32)}


def get_config(arguments: str | None = None) -> ConfigDict:
    c, args = common.start(
        arguments,
        **dict(data="phantom3d", method="dtml", network="vnet", seg_labels="16"),
        **dict(steps=6000, filters=16, size=256, seed=0),
    )
    c.cls_labels = "0"
    c.seg_data = args["data"]
    c.test_data = f"{c.seg_data}=test"
    if c.seg_data == "jsrt":
        c.test_data += ",mcu=all"
    c.method = "dtml"
    patch = PATCHES.get(c.seg_data.partition(":")[0], ())
    filters = args["filters"]
    if args["network"] == "unet":  # that of MultiMix
        widths = tuple(filters * 2**level for level in range(5))
        c.model = ConfigDict(dict(filters=widths, dropout_rate=0.25))
    else:  # the published V-Net
        c.model = ConfigDict(
            dict(
                filters=filters,  # channels of the first level, or of each
                convolutions=(1, 2, 3, 3) if patch else (1, 2, 3, 3, 3),  # of each level
                norm="batch",  # batch, group or instance
                dropout_rate=0.5,
            )
        )
    c.model.update(
        network=args["network"],  # vnet or unet
        use_sdf=True,  # a second network, of signed distance maps
        mask_channels=1,
        initializer="torch",
    )
    c.objective = ConfigDict(
        dict(
            patch=patch,  # sides of the random crops in pixels; () takes whole images
            turn=bool(patch),  # whether crops are turned and mirrored; films have an upper end
            sharpness=1500.0,  # of the mask that a distance map becomes
            mutual_weight=2.0,  # of the mutual term, 0 for none
            mutual_on="all",  # images of the mutual term: all or unlabeled
            detach="none",  # side of the mutual term that is taken as given: none, seg or sdf
            ramp_up=c.steps,  # steps until the mutual and the teacher's weights are whole
            distance_weight=0.0,  # of the error of distance maps
            distance_power=2,  # of that error, 1 or 2
            teacher_weight=0.1,  # of the mean teacher's term, 0 for none
            teacher_noise=0.1,  # standard deviation of what is added to the teacher's images
        )
    )
    c.window.patch = patch
    c.window.stride = tuple(side // 2 for side in patch)
    c.keep_largest = 1 if patch else 0
    c.batch_size = 2 if patch else 10
    c.accumulate = 1  # batch norm wants them together
    c.ema_decay = 0.99  # the teacher
    c.learning_rate = 0.01
    c.optimizer.update(name="sgd", momentum=0.9, weight_decay=1e-4)
    c.schedule.update(name="step", decay_every=max(c.steps * 5 // 12, 1), decay_rate=0.1)
    c.eval_every = c.checkpoint_every = max(c.steps // 10, 1)
    use_system(c, args["method"])
    return c


def use_system(c: ConfigDict, method: str | int) -> None:
    """Takes out the parts that a system lacks."""
    common.use_system(c, method, SYSTEMS)
    if c.model.network != "vnet":
        c.system += f"_{c.model.network}"
