"""Case ids that look like a person's name, and what the audit log says instead.

Case ids are file names, and files that come out of a scanner's export are often named by the patient. An audit log is
read by more people, and kept for longer, than the scans. A name is therefore replaced by a keyed digest: the same case
has the same pseudonym throughout, nobody can try names without the key, and whoever has it and a name can look for it.

What looks like a name: anything with a caret or a comma between letters (DICOM's "Doe^Jane", "Doe, Jane"), and any word
of letters that is not of this field ("Doe_Jane", "jane.doe.1961", "DOE-0042"). What does not: UIDs, UUIDs, digests,
numbers and dates, codes of a letter or two with digits ("s0001", "P12"), words of the field and of public data sets
("LIDC-IDRI-0001", "case_oblique"). In doubt it is a name: a pseudonym too many costs one look with ``--case``.
"""

from __future__ import annotations

import hashlib
import hmac
import re

DIGEST_LETTERS = 16
PREFIX = "name-"

_WORDS_OF_THE_FIELD = """
abdomen acquisition acr adult aligned annotated annotation anon anonymized anonymous apical arterial axial baseline
batch benign biopsy body bone case cases chest cleaned contrast control coronal crop cropped ct cta cube data dataset
day deid delayed demo dicom dose enhanced exam example expiration export final first flipped fold follow followup full
group high hrct idri image images img input inspiration label labelled ldct left lidc ln lobe low lower luna lung
lungs malignant mask mean medai median mediastinum mhd middle monai month mosmed msd native nifti nii nlst nodule
nodules non normal nrrd nsclc oblique orig original out output patient patients phantom phase pid plain prior pt
radiogenomics raw reader real recon reconstruction ref rescan retro rider right rotated sagittal sample scan scanner
scans screening second segmentation series session sharp site slab slice slices small soft stack standard stanford std
study sub subject subjects syn synthetic target task tcga tcia test thick thin thoracic thorax time timepoint train
training tumor tumour uid uniform unknown upper val validation venous visit vol volume week whole window year
"""
_FIELD_WORDS = frozenset(_WORDS_OF_THE_FIELD.split())
_UID = re.compile(r"[0-9]+(\.[0-9]+)+\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z", re.IGNORECASE)
_DIGEST = re.compile(r"(?=[a-f]*[0-9])[0-9a-f]{8,}\Z", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s._\-+~()\[\]=#@&']+")
_WORDS = re.compile(r"[^\W\d_]+")
_SHORTEST_WORD = 3


def looks_like_a_name(case_id: str) -> bool:
    """Whether a case id may name a person; see the module."""
    if _UID.match(case_id) or _UUID.match(case_id):
        return False
    if ("^" in case_id or "," in case_id) and any(letter.isalpha() for letter in case_id):
        return True
    unknown = [word for part in _SEPARATORS.split(case_id) if not _DIGEST.match(part) for word in _unknown_words(part)]
    if any(len(word) >= _SHORTEST_WORD or not word.isascii() for word in unknown):
        return True
    # Two short words are a name as well ("Li_Wu"); one is a code.
    return len([word for word in unknown if len(word) > 1]) > 1


def pseudonym(case_id: str, key: bytes) -> str:
    """What stands for a case id that names a person."""
    digest = hmac.new(key, case_id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    return f"{PREFIX}{digest[:DIGEST_LETTERS]}"


def _unknown_words(part: str) -> list[str]:
    return [word for word in _WORDS.findall(part) if word.lower() not in _FIELD_WORDS]
