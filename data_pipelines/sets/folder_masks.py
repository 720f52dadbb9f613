"""How the masks of one's own images lie: in one folder, or in one for each class."""

from collections.abc import Collection, Mapping
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files import IMAGE_SUFFIXES, images
from data_pipelines.files.paths import files_below, is_stray, one_form
from data_pipelines.findings import NOTE, note
from data_pipelines.sets.folder_table import split_of

# What tools put behind the names of images to name their masks.
ENDINGS = (
    *("_mask", "-mask", "_masks", "_seg", "-seg", "_segmentation", "_label", "-label", "_labels"),
)


def inside(masks: Path, images: Path) -> Path | None:
    """The folder of the masks as it is found below `images`; None where they lie elsewhere."""
    inner, outer = masks.resolve(), images.resolve()
    if outer.is_relative_to(inner):
        raise DataError(
            f"the images ({images}) lie in the folder of the masks ({masks}), and would be taken "
            "for masks; move one of them, and set --config.folder.images or --config.folder.masks"
        )
    return images / inner.relative_to(outer) if inner.is_relative_to(outer) else None


def folders(masks: Path, image_folder: Path) -> dict[str, Path]:
    """The folders of masks that are no folders of images, by name; {} where masks are of one class.

    Raises DataError where they cannot be the classes of masks.
    """
    is_folder = lambda path: path.is_dir() and not is_stray(path.name)
    below = sorted(filter(is_folder, masks.iterdir()), key=lambda path: one_form(path.name))
    of_images = {one_form(path.name) for path in filter(is_folder, image_folder.glob("*"))}
    found = {one_form(path.name): path for path in below if one_form(path.name) not in of_images}
    if not found:
        return {}
    parts = list(filter(split_of, found))
    if parts:
        raise DataError(
            f"{masks} has the folders {', '.join(parts)}, which are called after parts of a data "
            f"set and are no classes of masks; put the images into such folders too "
            f"({image_folder / parts[0]}, ...), or move the masks into {masks} itself"
        )
    if len(found) < len(below):
        raise DataError(
            f"{masks} has folders that images has ({below[0].name}, ...) and others "
            f"({', '.join(found)}); put all masks into a folder for each class, "
            "masks/CLASS/..., or name the folders like those of the images"
        )
    is_image = lambda path: path.name.lower().endswith(IMAGE_SUFFIXES)
    empty = [str(folder) for folder in below if not any(map(is_image, files_below([folder])))]
    if empty:
        raise DataError(
            f"{', '.join(empty)}: a folder in {masks} is a class of masks, but there are no masks "
            f"({', '.join(images.SUFFIXES)}) in it; add some, or remove it"
        )
    beside = lambda path: path.parent == masks and is_image(path)
    stray = next(filter(beside, files_below([masks])), None)
    if stray is not None:
        raise DataError(
            f"{stray} lies beside the folders of the classes ({', '.join(found)}); move it into one"
        )
    return found


def match(masks: Mapping[str, Path], names: Collection[str]) -> dict[str, Path]:
    """The masks by the names of their images: the same, or for all masks with one ending more.

    Those that match neither way keep their own names.
    """
    if masks.keys() <= set(names):
        return dict(masks)
    for ending in ENDINGS:
        matched = {name.removesuffix(ending): path for name, path in masks.items()}
        if matched.keys() <= set(names) and all(name.endswith(ending) for name in masks):
            note(
                "masks of other names",
                NOTE,
                f"masks are called like their images, with {ending} behind",
            )
            return matched
    return dict(masks)


def refuse_beside(files: Mapping[str, Path]) -> None:
    """Raises DataError where images seem to have their masks beside them, under their own names."""
    for name, path in files.items():
        for ending in ENDINGS:
            image = files.get(name.removesuffix(ending)) if name.endswith(ending) else None
            if image is not None:
                raise DataError(
                    f"{path} lies beside {image} among the images and is named like its mask; move "
                    "the masks into a folder of their own (--config.folder.masks), or rename it"
                )
