"""Which of one's own images are of one patient."""

import collections
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.files import dicom, images
from data_pipelines.files.paths import size_of
from data_pipelines.findings import NOTE, WARNING, note
from data_pipelines.threads import in_threads


def groups(files: Mapping[str, Path], stated: Mapping[str, str]) -> dict[str, str]:
    """The patient of each image, by its name: as `stated`; of others, the same for all DICOM files
    of one PatientID, named after the first of them or as stated for one. Any other image counts as
    a patient. The ID itself is kept nowhere.
    """
    keys: dict[str, bytes] = {}
    if stated.keys() < files.keys():
        is_dicom = lambda path: path.suffix.lower() not in images.SUFFIXES and size_of(path) > 0
        asked = {name: path for name, path in files.items() if is_dicom(path)}
        found = zip(asked, in_threads(dicom.patient_key, asked.values()), strict=True)
        keys = {name: key for name, key in found if key}
    count = collections.Counter(keys.values())
    if len(keys) > len(count) == 1:
        detail = f"{len(keys)} DICOM files have one PatientID, which is taken to stand for nobody"
        note("patients are not told apart", WARNING, detail)
        keys = {}
    elif keys:
        detail = f"{len(keys)} DICOM files are of {len(count)} patients, by their PatientID"
        most_are_one = max(count.values()) > len(keys) / 2
        note("patients", WARNING if most_are_one else NOTE, detail)
    named: dict[bytes, str] = {}
    group_of = {}
    for name in sorted(files, key=lambda name: (name not in stated, name)):
        key = keys.get(name)
        group_of[name] = stated.get(name) or (named.get(key, name) if key else name)
        if key:
            named.setdefault(key, group_of[name])
    return group_of
