"""How the masks of one's own images lie: in one folder, or in one for each class."""

from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.files import IMAGE_SUFFIXES, images
from data_pipelines.files.paths import files_below, is_stray


def prefix(masks: Path, images: Path) -> str:
    """How names below `images` begin that are masks: 'masks/', or '' where these lie elsewhere."""
    inner, outer = masks.resolve(), images.resolve()
    if outer.is_relative_to(inner):
        raise DataError(
            f"the images ({images}) lie in the folder of the masks ({masks}), and would be taken "
            "for masks; move one of them, and set --config.folder.images or --config.folder.masks"
        )
    return f"{inner.relative_to(outer).as_posix()}/" if inner.is_relative_to(outer) else ""


def names(masks: Path, image_folder: Path) -> tuple[str, ...]:
    """The folders of masks that are no folders of images; () where masks are of one class."""
    below = [path for path in sorted(masks.iterdir()) if path.is_dir() and not is_stray(path.name)]
    found = tuple(path.name for path in below if not (image_folder / path.name).is_dir())
    if not found:
        return ()
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
    stray = next((path for path in files_below([masks]) if path.parent == masks), None)
    if stray is not None:
        raise DataError(
            f"{stray} lies beside the folders of the classes ({', '.join(found)}); move it into one"
        )
    return found
