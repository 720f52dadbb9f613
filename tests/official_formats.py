"""Writes small data sets in the very formats in which the official ones are distributed."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom import uid

VOXELS = np.array([[-1.0, 0, 0, 7], [0, 2, 0, -5], [0, 0, 3, 1], [0, 0, 0, 1]])


def write_image(path: Path, pixels: np.ndarray | None = None, mode: str = "") -> Path:
    """Writes `pixels` (by default a ramp, uint8 [24, 20]) in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.arange(24 * 20, dtype=np.uint32).reshape(24, 20).astype(np.uint8)
    image = Image.fromarray(pixels)
    options = {"compress_level": 1} if path.suffix == ".png" else {}
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    """A mask, uint8 [height, width]: 255 within the rows and columns."""
    mask = np.zeros((height, width), np.uint8)
    mask[rows, columns] = 255
    return mask


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def write_kermany(root: Path) -> None:
    """chest_xray/ with one RGB image, as in the archive: with what a Mac leaves behind."""
    for name in (
        "train/NORMAL/IM-0115-0001.jpeg",
        "train/NORMAL/IM-0115-0002.jpeg",
        "train/PNEUMONIA/person12_bacteria_46.jpeg",
        "val/PNEUMONIA/person1946_bacteria_4874.jpeg",
        "test/NORMAL/NORMAL2-IM-0381-0001.jpeg",
    ):
        write_image(root / "chest_xray" / name)
    write_image(root / "chest_xray/test/PNEUMONIA/person12_virus_47.jpeg", mode="RGB")
    for stray in (
        "chest_xray/train/.DS_Store",
        "__MACOSX/chest_xray/train/NORMAL/._IM-0115-0001.jpeg",
        "chest_xray/__MACOSX/train/NORMAL/IM-0115-0001.jpeg",
    ):
        (root / stray).parent.mkdir(parents=True, exist_ok=True)
        (root / stray).write_bytes(b"not an image")


def write_jsrt(root: Path, names: Sequence[str] = ("JPCLN001", "JPCNN002")) -> None:
    """All247images/*.IMG, dark on the left, and SCR masks, which cover two quarters."""
    raw = np.full((2048, 2048), 100, ">u2")
    raw[:, :1024] = 3900  # high values are dark
    for name in names:
        path = root / "All247images" / f"{name}.IMG"
        path.parent.mkdir(parents=True, exist_ok=True)
        raw.tofile(path)
        masks = root / "scratch" / f"fold{1 if int(name[-1]) % 2 else 2}" / "masks"
        upper, lower = slice(0, 512), slice(512, 1024)
        write_image(masks / "left lung" / f"{name}.gif", box(1024, 1024, upper, upper))
        write_image(masks / "right lung" / f"{name}.gif", box(1024, 1024, lower, lower))
        write_image(masks / "heart" / f"{name}.gif", box(1024, 1024, upper, lower))


def write_montgomery(root: Path, names: Sequence[str], shape: tuple[int, int]) -> None:
    """MontgomerySet/: 12 bits in 16, brighter downwards; the masks cover two quarters."""
    height, width = shape
    ramp = np.linspace(0, 4095, height).astype(np.uint16)[:, None].repeat(width, axis=1)
    upper, left = slice(0, height // 2), slice(0, width // 2)
    lower, right = slice(height // 2, height), slice(width // 2, width)
    top = root / "MontgomerySet"
    for name in names:
        write_image(top / "CXR_png" / f"{name}.png", ramp)
        masks = top / "ManualMask"
        write_image(masks / "leftMask" / f"{name}.png", box(height, width, upper, left))
        write_image(masks / "rightMask" / f"{name}.png", box(height, width, lower, right))
        reading = top / "ClinicalReadings" / f"{name}.txt"
        reading.parent.mkdir(parents=True, exist_ok=True)
        reading.write_text("Patient's Sex: F\nPatient's Age: 027Y\nnormal\n")


NIH_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
)


def write_nih(root: Path) -> None:
    """images_001/ and images_002/ with the table and the official lists; one image is RGBA."""
    write_image(root / "images_001/images/00000001_000.png")
    write_image(root / "images_001/images/00000001_001.png", mode="RGBA")
    write_image(root / "images_002/images/00000002_000.png")
    write_csv(
        root / "Data_Entry_2017.csv",
        NIH_COLUMNS,
        [
            ("00000001_000.png", "Cardiomegaly|Effusion", "0", "1", "58", "M", "PA"),
            ("00000001_001.png", "No Finding", "1", "1", "58", "M", "PA"),
            ("00000002_000.png", "No Finding", "0", "2", "81", "M", "AP"),
            ("00000003_000.png", "Hernia", "0", "3", "81", "F", "PA"),
        ],
    )
    (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (root / "test_list.txt").write_text("00000002_000.png\n00000003_000.png")


def write_la(root: Path) -> None:
    """train.list, test.list and ID/mri_norm2.h5, each volume of another depth."""
    root.mkdir(parents=True, exist_ok=True)
    for split, names in (("train", ("AA", "BB")), ("test", ("CC",))):
        (root / f"{split}.list").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            image = np.random.default_rng(ord(name[0])).normal(size=(10, 9, 8 + ord(name[0]) % 4))
            write_h5(root / f"2018LA_Seg_Training Set/{name}/mri_norm2.h5", image=image)


def write_h5(path: Path, image: np.ndarray, label: np.ndarray | None = None) -> Path:
    """One volume in float32; its label, by default, is its inner half along each axis."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if label is None:
        label = np.zeros(image.shape, np.uint8)
        label[tuple(slice(side // 4, side - side // 4) for side in image.shape)] = 1
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=image.astype(np.float32), compression="gzip")
        file.create_dataset("label", data=label, compression="gzip")
    return path


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """One volume, by default of voxels of 1 x 2 x 3 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, VOXELS if affine is None else affine), path)
    return path


# What a scanner writes of who was imaged, where and when.
IDENTIFYING = dict(
    PatientName="Quux^Zebedee",
    PatientID="ID-7319-44",
    PatientBirthDate="19310417",
    PatientAddress="12 Larkspur Row",
    OtherPatientIDs="ALT-5521",
    StudyDate="20190823",
    AcquisitionDateTime="20190823141516",
    InstitutionName="Saint Odo Infirmary",
    ReferringPhysicianName="Wimple^Ada",
    AccessionNumber="ACC-90210",
    StudyDescription="follow-up of Zebedee",
    PatientComments="seen by Dr Wimple",
)


def write_dicom(path: Path, values: np.ndarray, **elements: object) -> Path:
    """One image [H, W] or [H, W, 3], uncompressed, that says whose it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = "1.2.3.4"
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel = values.shape[2] if values.ndim == 3 else 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8 * values.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.tobytes().ljust(values.nbytes + values.nbytes % 2, b"\0")
    data["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    for name, value in (IDENTIFYING | elements).items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path
