"""Every reader of outside bytes: what it is given first, how that is changed, what it must do."""

import dataclasses
import gc
import gzip
import io
import itertools
import json
import os
import shutil
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import imagecodecs
import nibabel
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom import uid

from data_pipelines import DataError
from data_pipelines.files.images import FORMATS
from tests.fuzzing import ROOT, mutate

Read = Callable[[Path], None]
Change = Callable[[bytes, np.random.Generator, Sequence[bytes]], bytes]


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader of outside bytes.

    Attributes:
      file: what the input is called, below a folder of the process.
      seeds: sound files, by that folder.
      reader: by that folder, a function that reads an input, and raises where what it gets is not
        of the right type.
      change: from a sound file, by a generator and beside the others, makes an input.
      names: what a refusal must name; '' is the file.
    """

    file: str
    seeds: Callable[[Path], list[bytes]]
    reader: Callable[[Path], Read]
    change: Change = mutate
    names: str = ""


def _png(content: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """With sums that agree, half of the time: without them little but the sums is looked at."""
    changed = bytearray(mutate(content, rng, others))
    at = 8
    while at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed) if rng.random() < 0.7 else mutate(content, rng, others)


def _gzip(content: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """What is packed is changed, or the packed file."""
    if rng.random() < 0.3:
        return mutate(content, rng, others)
    inner = [gzip.decompress(other) for other in others]
    return gzip.compress(mutate(gzip.decompress(content), rng, inner), 1, mtime=0)


def _zip(content: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """One of the packed files is changed, or the archive."""
    if rng.random() < 0.4:
        return mutate(content, rng, others)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = [(info, file.read(info)) for info in file.infolist()]
    chosen = int(rng.integers(len(members))) if rng.random() < 0.5 else 0
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for index, (info, inner) in enumerate(members):
            file.writestr(info, mutate(inner, rng) if index == chosen else inner)
    return packed.getvalue()


RAMP = np.add.outer(5 * np.arange(24), 7 * np.arange(20)).astype(np.uint8)
VOLUME = np.random.default_rng(0).integers(0, 999, (9, 10, 8)).astype(np.int16)


def _pictures(form: str) -> Callable[[Path], list[bytes]]:
    """A picture in the modes that a format has."""
    modes = {
        "PNG": ["L", "RGB", "RGBA", "P", "I;16", "1", "LA"],
        "JPEG": ["L", "RGB", "CMYK"],
        "GIF": ["L", "P"],
        "BMP": ["L", "RGB", "1", "P"],
        "TIFF": ["L", "RGB", "I;16", "F", "1", "P"],
        "WEBP": ["RGB", "RGBA"],
        "JPEG2000": ["L", "RGB", "RGBA", "I;16"],
    }

    def seeds(folder: Path) -> list[bytes]:
        found = []
        for mode, options in itertools.product(modes[form], _OPTIONS.get(form, [{}])):
            file = io.BytesIO()
            try:
                Image.fromarray(RAMP).convert(mode).save(file, form, **options)
            except (OSError, ValueError):  # not every mode goes with every option
                continue
            found.append(file.getvalue())
        if form in _DEEP:
            found.append(_DEEP[form](np.dstack([RAMP.astype(np.uint16) * 257] * 3)))
        return found

    return seeds


def _deep_tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", compression="zlib")
    return file.getvalue()


_DEEP: dict[str, Callable[[np.ndarray], bytes]] = {
    "PNG": imagecodecs.png_encode,
    "TIFF": _deep_tiff,
    "JPEG2000": lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0),
}
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "TIFF": [
        dict(compression=kind) for kind in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate")
    ],
    "PNG": [{}, dict(transparency=3)],
    "JPEG": [{}, dict(progressive=True), dict(exif=Image.Exif())],
    "GIF": [{}, dict(interlace=True, transparency=3)],
    "WEBP": [{}, dict(lossless=True)],
    "JPEG2000": [{}, dict(no_jp2=True, irreversible=True)],
}


def _check_example(example: dict[str, Any], dims: int) -> None:
    kind = np.uint8 if dims == 2 else np.float16
    assert example["image"].dtype == kind and example["image"].ndim == dims + 1
    assert example["mask"].dtype == np.uint8 and example["mask"].shape == example["image"].shape
    assert np.isfinite(example["image"]).all() and np.isfinite(example["spacing"]).all()


def _own_images(folder: Path) -> Read:
    """As picture and mask, by preparation and by the audit, which says nothing of persons."""
    from data_pipelines import checks
    from data_pipelines.sets.folder import Folder
    from data_pipelines.source import Source
    from tests.official_formats import IDENTIFYING

    builder = Folder(source_dir=folder / "own", size=16, prepared_dir=str(folder / "prepared"))

    def read(path: Path) -> None:
        masks = (path,) if path.suffix != ".dcm" else ()
        facts = checks.examine(
            "own", builder.label_spec, builder.example, Source("a", "a", image=path, masks=masks)
        )[0]
        assert not [value for value in IDENTIFYING.values() if value in str(facts.problems)]
        _check_example(builder.example(Source(id="a", group="a", image=path)), 2)
        if masks:
            mask = builder.read_masks(Source("a", "a", image=path, masks=masks), (24, 20))
            assert mask is not None and mask.shape == (24, 20, 1) and mask.dtype == bool

    return read


def _dicoms(folder: Path) -> list[bytes]:
    from tests.official_formats import write_dicom

    path = folder / "seed.dcm"
    deep = RAMP.astype(np.uint16) * 9
    window = dict(WindowCenter=[600, 1], WindowWidth=[300, 2], RescaleSlope=2, RescaleIntercept=-9)
    elements: list[tuple[np.ndarray, dict[str, Any]]] = [
        (RAMP, {}),
        (deep, window | dict(PixelSpacing=[0.2, 0.3])),
        (deep.astype(np.int16), dict(PhotometricInterpretation="MONOCHROME1")),
        (np.stack([RAMP] * 3, -1), dict(PhotometricInterpretation="RGB", PlanarConfiguration=0)),
    ]
    found = [write_dicom(path, values, **more).read_bytes() for values, more in elements]
    from tests.data_pipelines.dicom_test import PACKED, TWELVE, compress, compressed, packed

    for syntax, options, _ in PACKED.values():
        if syntax in uid.JPEGLSTransferSyntaxes:
            continue  # over a few damaged ones CharLS 2.4.3 counts for 20 s before it refuses them
        frame = compress(syntax, options)
        found.append(packed(path, TWELVE, syntax, frame, BitsStored=12, HighBit=11).read_bytes())
    found.append(compressed(path, RAMP, uid.JPEGBaseline8Bit, "JPEG").read_bytes())
    found.append(compressed(path, RAMP, uid.JPEG2000Lossless, "JPEG2000").read_bytes())
    data = pydicom.dcmread(write_dicom(path, deep, **window))
    data.compress(uid.RLELossless, generate_instance_uid=False)
    data.save_as(path)
    found.append(path.read_bytes())
    path.unlink()
    return found


def _raw_films(folder: Path) -> list[bytes]:
    return [np.arange(32 * 32, dtype=">u2").tobytes(), bytes(2 * 32 * 32)]


def _jsrt(folder: Path) -> Read:
    from data_pipelines.sets import jsrt
    from data_pipelines.source import Source

    jsrt._SIDE = 32  # official films have 8 MiB
    builder = jsrt.Jsrt(source_dir=folder / "own", size=16, prepared_dir=str(folder / "prepared"))
    return lambda path: _check_example(builder.example(Source("a", "a", image=path)), 2)


def _h5s(folder: Path) -> list[bytes]:
    path, found = folder / "seed.h5", []
    for options, version in itertools.product(
        ({}, dict(compression="gzip"), dict(chunks=(4, 5, 8), shuffle=True, compression="lzf")),
        ("earliest", "latest"),
    ):
        with h5py.File(path, "w", libver=version) as file:
            file.create_dataset("image", data=VOLUME.astype(np.float32), **options)
            file.create_dataset("label", data=(VOLUME > 500).astype(np.uint8), **options)
        found.append(path.read_bytes())
    path.unlink()
    return found


def _la(folder: Path) -> Read:
    from data_pipelines.sets.la import La
    from data_pipelines.source import Source

    builder = La(source_dir=folder / "own", prepared_dir=str(folder / "prepared"))
    return lambda path: _check_example(builder.example(Source("a", "a", image=path)), 3)


def _niftis(suffix: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        found = []
        for kind, dtype in ((nibabel.Nifti1Image, "<i2"), (nibabel.Nifti1Image, ">f4")):
            header = nibabel.Nifti1Header(endianness=dtype[0])
            image = kind(VOLUME.astype(dtype), np.diag([1.0, 2, 3, 1]), header)
            image.header.set_qform(np.diag([1.0, 2, 3, 1]))
            found.append(image.to_bytes())
        image = nibabel.Nifti2Image(VOLUME.astype(np.uint8), np.eye(4))
        image.header.set_slope_inter(2, 1)
        found.append(image.to_bytes())
        return [gzip.compress(x, mtime=0) for x in found] if suffix == ".gz" else found

    return seeds


def _own_volumes(folder: Path) -> Read:
    from data_pipelines.sets.folder3d import Folder3D
    from data_pipelines.source import Source

    builder = Folder3D(source_dir=folder / "own", prepared_dir=str(folder / "prepared"))
    return lambda path: _check_example(
        builder.example(Source("a", "a", image=path, masks=(path,))), 3
    )


def _check_sources(sources: Sequence[Any], count: int) -> None:
    assert 0 < len(sources) <= count
    for source in sources:
        assert all(isinstance(text, str) for text in (source.id, source.group, source.split))
        assert isinstance(source.label, int)


def _own_table(folder: Path) -> Read:
    """labels.csv or classes.txt of a folder."""
    from data_pipelines.sets.folder import Folder
    from tests.official_formats import write_image

    def read(path: Path) -> None:
        builder = Folder(source_dir=path.parent, size=16, prepared_dir=str(folder / "prepared"))
        assert all(isinstance(name, str) for name in builder.label_spec.class_names)
        _check_sources(builder.sources(folder), 3)

    for name in "abc":
        write_image(folder / "own" / "images" / f"{name}.png")
    if not (folder / "own" / "labels.csv").exists():
        (folder / "own" / "labels.csv").write_text("image,label\na,well\nb,ill\n")
    return read


def _nihx(folder: Path) -> Read:
    from data_pipelines.sets.nihx import Nihx
    from tests.official_formats import write_nih

    write_nih(folder / "own")
    builder = Nihx(source_dir=folder / "own", size=16, prepared_dir=str(folder / "prepared"))
    return lambda path: _check_sources(builder.sources(folder), 3)


def _nih_tables(folder: Path) -> list[bytes]:
    from tests.official_formats import write_nih

    write_nih(folder / "nih")
    table = (folder / "nih" / "Data_Entry_2017.csv").read_bytes()
    shutil.rmtree(folder / "nih")
    return [table, table.replace(b"\r\n", b"\n").replace(b"Hernia", b'"Her\n""nia"')]


def _la_list(folder: Path) -> Read:
    from data_pipelines.sets.la import La
    from tests.official_formats import write_la

    write_la(folder / "own")
    builder = La(source_dir=folder / "own", prepared_dir=str(folder / "prepared"))
    return lambda path: _check_sources(builder.sources(folder), 3)


def _exclude_list(folder: Path) -> Read:
    from data_pipelines import exclude

    def read(path: Path) -> None:
        for name, ids in exclude.read(path).items():
            assert isinstance(name, str) and all(isinstance(id_, str) for id_ in ids)

    return read


def _archive(folder: Path) -> Read:
    from data_pipelines.files import archive

    def read(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive.extract(path, Path(scratch, "0"))
            for found in Path(scratch).rglob("*"):
                assert not found.is_symlink() and (found.is_file() or found.is_dir())

    return read


def _zips(folder: Path) -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as zipped:
            zipped.writestr("top/a.png", RAMP.tobytes())
            zipped.writestr("top/b.txt", b"some text")
        found.append(file.getvalue())
    return found


def _tars(folder: Path) -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz", format=form) as tar:
            for name in ("top/a.png", "top/" + "long" * 22 + ".png"):
                info = tarfile.TarInfo(name)
                info.size = RAMP.nbytes
                tar.addfile(info, io.BytesIO(RAMP.tobytes()))
        found.append(file.getvalue())
    return found


def _state_dicts(folder: Path) -> list[bytes]:
    import torch

    from tests.models.torch_weights_test import authors

    found = []
    for options in ({}, dict(_use_new_zipfile_serialization=False)):
        for dtype in (torch.float32, torch.bfloat16):
            state = {name: torch.tensor(value).to(dtype) for name, value in authors().items()}
            file = io.BytesIO()
            torch.save(state, file, **options)
            found.append(file.getvalue())
    return found


def _state_dict(content: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    return (_zip if content[:2] == b"PK" else mutate)(content, rng, others)


def _convert(folder: Path) -> Read:
    import jax

    from multimix_jax.commands import convert

    def read(path: Path) -> None:
        for leaf in jax.tree.leaves(convert.read_params(path)):
            assert leaf.dtype == np.float32 and np.isfinite(leaf).all()

    return read


def _checkpoint_files(folder: Path) -> list[bytes]:
    """All files of a small checkpoint as one: which is changed is drawn by `_checkpoint_change`."""
    from multimix_jax.names import Checkpoint
    from multimix_jax.training.checkpoint import Checkpoints
    from tests.training.checkpoint_test import META, state

    with tempfile.TemporaryDirectory() as run:
        with Checkpoints(run) as checkpoints:
            checkpoints.save(Checkpoint.LAST, state(3), META)
        files = sorted(path for path in Path(run).rglob("*") if path.is_file())
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            for path in files:
                file.write(path, path.relative_to(run).as_posix())
    return [packed.getvalue()]


def _checkpoint_change(content: bytes, rng: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """Changes one or two of the files."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        files = {info.filename: file.read(info) for info in file.infolist()}
    for name in rng.choice(sorted(files), int(rng.integers(1, 3))):
        files[name] = mutate(files[name], rng, list(files.values()))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, inner in files.items():
            file.writestr(name, inner)
    return packed.getvalue()


def _restore(folder: Path) -> Read:
    import jax

    from multimix_jax.names import Checkpoint
    from multimix_jax.training.checkpoint import restore_variables
    from tests.training.checkpoint_test import META, state

    sound = [jax.tree.map(np.asarray, tree) for tree in vars(state(3)).values()]

    def read(path: Path) -> None:
        run = path.parent / "checkpoint"
        with zipfile.ZipFile(path) as file:
            file.extractall(run)
        try:
            restored = restore_variables(run, Checkpoint.LAST)
            gc.collect()
            if restored is not None:  # whatever was changed, it is as it was saved, or refused
                step, variables, meta = restored
                assert (step, meta) == (3, META)
                for leaf in jax.tree.leaves(variables):
                    assert any(
                        np.array_equal(leaf, other)
                        for tree in sound
                        for other in jax.tree.leaves(tree)
                    )
        finally:
            shutil.rmtree(run)

    return read


CONFIG = {"steps": 10, "seg_labels": "10", "data_dir": "a", "model": {"filters": [4, 8], "r": 0.1}}


def _run_config(folder: Path) -> Read:
    from multimix_jax.runs import workdir

    def read(path: Path) -> None:
        assert workdir.check(path.parent, CONFIG, {}) == path.parent

    return read


def _whole_run(folder: Path) -> Path:
    from tests.finished_runs import write_run

    shutil.rmtree(folder / "run", ignore_errors=True)
    return write_run(folder, "unet", 0).rename(folder / "run")


def _run_results(folder: Path) -> Read:
    """By what goes on with a run, and by what reports it."""
    from multimix_jax.errors import UsageError
    from multimix_jax.runs import record, workdir
    from tests.finished_runs import STEPS

    _whole_run(folder)

    def read(path: Path) -> None:
        results = workdir.finished(path.parent, STEPS, {"jsrt"})
        assert results is None or results["run"]["last"]["step"] == STEPS
        try:
            run = record.read_run(path.parent)
            assert isinstance(run.components, frozenset)
        except UsageError as error:
            assert str(path.parent) in str(error)

    return read


def _overrides(folder: Path) -> list[bytes]:
    """--config.FIELD=TEXT, with the value that each field has."""
    from configs import common

    config = common.get_config()
    flat = {key: str(value) for key, value in _flatten(config.to_dict())}
    return [f"--config.{key}={value}".encode() for key, value in flat.items()]


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _override(folder: Path) -> Read:
    from absl import flags
    from ml_collections import ConfigDict, config_flags

    from configs import common
    from data_pipelines import arguments
    from multimix_jax.errors import UsageError
    from multimix_jax.runs.spec import RunSpec

    kinds = {key: type(value) for key, value in _flatten(common.get_config().to_dict())}

    def read(path: Path) -> None:
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
        text = path.read_bytes().replace(b"\0", b"").decode("utf-8", "surrogateescape")
        argv = ["launch.py", f"--config={ROOT / 'configs' / 'common.py'}", text]
        with mock.patch.object(arguments.flags, "FLAGS", values):
            try:
                arguments.parse(argv)
            except SystemExit as stop:
                message = str(stop.code)
                assert message.startswith("error: ") and "\n" not in message, message
                return
        assert isinstance(holder.value, ConfigDict)
        for key, value in _flatten(holder.value.to_dict()):
            assert isinstance(value, kinds[key]), (key, value)
        try:
            RunSpec.of_config(holder.value.to_dict())
        except UsageError as error:
            assert "--config." in str(error)

    return read


def _faulty(folder: Path) -> Read:
    """Does what it is told to: what no reader may do."""

    def read(path: Path) -> None:
        fault = path.read_bytes()
        if fault == b"crash":
            os.abort()
        if fault == b"hang":
            while True:
                pass
        if fault == b"warn":
            warnings.warn("odd", stacklevel=1)
        if fault == b"leave":
            (folder / "stray").touch()
        if fault == b"memory":
            np.ones(2**30 + 2**28, np.uint8)
        if fault == b"vague":
            raise DataError("no")
        if fault == b"refuse":
            raise DataError(f"{path} is wrong; mend it")
        if fault == b"other":
            raise KeyError(path)

    return read


FAULTS = ("none", "crash", "hang", "warn", "leave", "memory", "vague", "refuse", "other")
TABLE = b'image,label,patient,split\na.png,well,p1,train\nb,ill,,val\n"c",,p1,\n'
TARGETS: dict[str, Target] = {
    **{
        form.lower(): Target(
            f"a.{form.lower().replace('eg2000', '2')}",
            _pictures(form),
            _own_images,
            _png if form == "PNG" else mutate,
        )
        for form in FORMATS
    },
    "dicom": Target("a.dcm", _dicoms, _own_images),
    "jsrt": Target("JPCLN001.IMG", _raw_films, _jsrt),
    "h5": Target("a.h5", _h5s, _la),
    "nifti": Target("a.nii", _niftis(""), _own_volumes),
    "nifti_gz": Target("a.nii.gz", _niftis(".gz"), _own_volumes, _gzip),
    "labels": Target("own/labels.csv", lambda folder: [TABLE], _own_table),
    "classes": Target("own/classes.txt", lambda folder: [b"well\nill\n"], _own_table),
    "nih_table": Target("own/Data_Entry_2017.csv", _nih_tables, _nihx),
    "la_list": Target("own/train.list", lambda folder: [b"AA\nBB\n"], _la_list),
    "exclude_list": Target(
        "exclude.csv", lambda folder: [b"data_set,id,reason\njsrt,a,same image\n"], _exclude_list
    ),
    "zip": Target("a.zip", _zips, _archive, _zip),
    "tar": Target("a.tar.gz", _tars, _archive, _gzip),
    "torch": Target("a.pth", _state_dicts, _convert, _state_dict),
    "checkpoint": Target(
        "a.zip", _checkpoint_files, _restore, _checkpoint_change, names="checkpoints/last/"
    ),
    "run_config": Target(
        "run/config.json",
        lambda folder: [json.dumps(CONFIG).encode()],
        _run_config,
        names="run",
    ),
    "run_results": Target(
        "run/results.json",
        lambda folder: [(_whole_run(folder) / "results.json").read_bytes()],
        _run_results,
    ),
    "override": Target("argument.txt", _overrides, _override),
    "faulty": Target("a", lambda folder: [name.encode() for name in FAULTS], _faulty),
}
