"""What an image of a CT series shows, where it is no slice of a scan in Hounsfield units.

Scanners and workstations file localisers, screenshots, projections and material maps under the modality CT, with
positions and rescale values that look like a scan's. What says so with authority: ImageType (PS3.3 C.8.2.1.1.1 and
C.8.16.1, and the makers' further values), RescaleType (C.11.1.1.2), the calculation technique of enhanced images, the
multi-energy modules and the codes of the derivation. Free text (SeriesDescription, ImageComments) is believed only of
images that call themselves derived.

Virtual monoenergetic images (keV images) are Hounsfield units and stay; so do multiplanar reformats and averages.
Virtual non-contrast images are not: a material has been taken out, their numbers are modified (HU_MOD).
"""

from __future__ import annotations

import functools
import re

from medai.volume_io.dicom_values import HeaderValues

LOCALISER = "localiser"
SCREENSHOT = "screenshot or report page"
NO_PLACE = "image without a place in the patient"
BESIDE_KINDS = (LOCALISER, SCREENSHOT, NO_PLACE)
"""What merely lies beside the slices of a scan."""

_MIP = "maximum intensity projection (MIP)"
_MINIP = "minimum intensity projection (MinIP)"
_MAP = "material map (iodine, water, calcium …)"
_IODINE = "iodine map"
_VNC = "virtual non-contrast image"
_EFFECTIVE_Z = "effective atomic number map"
_DENSITY = "electron density map"
_SUBTRACTION = "subtraction image"
_PERFUSION = "perfusion map"
_RENDERING = "3D rendering"
_CURVED = "curved reformat"

# Whole values of ImageType or FrameType, words divided by anything.
_IMAGE_TYPES = {
    "LOCALIZER": LOCALISER,
    "SCOUT": LOCALISER,
    "TOPOGRAM": LOCALISER,
    "SURVIEW": LOCALISER,
    "SCANOGRAM": LOCALISER,
    "SCREEN SAVE": SCREENSHOT,
    "SCREEN CAPTURE": SCREENSHOT,
    "SCREENSHOT": SCREENSHOT,
    "SECONDARY CAPTURE": SCREENSHOT,
    "DOSE INFO": SCREENSHOT,
    "DOSE REPORT": SCREENSHOT,
    "DOSE": SCREENSHOT,
    "PROTOCOL": SCREENSHOT,
    "MIP": _MIP,
    "MAX IP": _MIP,
    "MAXIP": _MIP,
    "MAXIMUM": _MIP,
    "MAXIMUM INTENSITY PROJECTION": _MIP,
    "MINIP": _MINIP,
    "MIN IP": _MINIP,
    "MINIMUM": _MINIP,
    "MINIMUM INTENSITY PROJECTION": _MINIP,
    "PROJECTION IMAGE": "projection",
    "MAT SPECIFIC": _MAP,
    "MAT FRACTIONAL": _MAP,
    "MAT VALUE BASED": _MAP,
    "MAT REMOVED": _VNC,
    "MAT MODIFIED": "material-modified image",
    "EFF ATOMIC NUM": _EFFECTIVE_Z,
    "ELECTRON DENSITY": _DENSITY,
    "SUBTRACTION": _SUBTRACTION,
    "SUBTRACTED": _SUBTRACTION,
    "SUBTRACT": _SUBTRACTION,
    "SUB": _SUBTRACTION,
    "DIFFERENCE": _SUBTRACTION,
    "DIVISION": "quotient of images",
    "MULTIPLICATION": "product of images",
    "ADDITION": "sum of images",
    "STD DEVIATION": "standard deviation image",
    "MASKED": "masked image",
    "VOLUME RENDER": _RENDERING,
    "SURFACE RENDER": _RENDERING,
    "VRT": _RENDERING,
    "SSD": _RENDERING,
    "CURVED MPR": _CURVED,
    "CURVED": _CURVED,
}
# Values that count only where they are one of the makers' own, the fourth and on: too short to be safe elsewhere.
_MAKERS_WORDS = (
    (re.compile(r"\b(MIP|MAXIP)\b"), _MIP),
    (re.compile(r"\b(MINIP|MNIP)\b"), _MINIP),
    (re.compile(r"IODINE|\bIOD\b"), _IODINE),
    (re.compile(r"\b(VNC|VUE|VIRTUAL UNENHANCED|VIRTUAL NON ?CONTRAST)\b"), _VNC),
    (re.compile(r"\b(Z ?EFF|EFF(ECTIVE)? ?Z|EFF(ECTIVE)? ATOMIC)\b"), _EFFECTIVE_Z),
    (re.compile(r"\b(RHO|ELECTRON DENS(ITY)?|EDENS)\b"), _DENSITY),
    (re.compile(r"\b(PBV|CBF|CBV|MTT|TTP|TMAX)\b"), _PERFUSION),
    (re.compile(r"\b(SUBTRACT(ION|ED)?)\b"), _SUBTRACTION),
    (re.compile(r"\b(MAT DENSITY|MATERIAL DENSITY|MD (WATER|CALCIUM|FAT|HAP))\b"), _MAP),
    (re.compile(r"\b(SCREEN SAVE|SCREENSHOT|DOSE REPORT)\b"), SCREENSHOT),
    (re.compile(r"\b(VRT|VOLUME RENDER\w*|SURFACE RENDER\w*)\b"), _RENDERING),
)
_RESCALE_TYPES = {
    "HU_MOD": _VNC + " or other modified Hounsfield units",
    "MGML": "material map in mg/ml",
    "Z_EFF": _EFFECTIVE_Z,
    "ED": _DENSITY,
    "EDW": _DENSITY,
    "PCT": "map in percent",
    "OD": "image in optical density",
}
# "US" is "unspecified": ITK and 3D Slicer write it into every CT they export, so the other tests decide.
_HOUNSFIELD_TYPES = {"", "HU", "US", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS", "UNSPECIFIED"}
_TECHNIQUES = {
    "MAX_IP": _MIP,
    "MIN_IP": _MINIP,
    "VOLUME_RENDER": _RENDERING,
    "SURFACE_RENDER": _RENDERING,
    "CURVED_MPR": _CURVED,
}
_DERIVATIONS = {
    "113073": _CURVED,
    "113078": _MIP,
    "113079": _MINIP,
    "113046": "quotient of images",
    "113047": "masked image",
    "113048": _MIP,
    "113051": _MINIP,
    "113053": "product of images",
    "113062": _SUBTRACTION,
    "113074": _RENDERING,
    "113075": _RENDERING,
    "113076": "segmentation",
    "129104": _PERFUSION,
}
_HOUNSFIELD_UNIT_CODES = {"[hnsf'U]", "[hnsf'u]"}
_FREE_TEXT = (
    (re.compile(r"\b(MAX(IMUM)?[ -]?(IPS?|INTENSITY)|MIPS?)\b"), _MIP),
    (re.compile(r"\b(MIN(IMUM)?[ -]?(IPS?|INTENSITY)|MNIPS?)\b"), _MINIP),
    # Iodine given to the patient is contrast medium.
    (
        re.compile(r"(?<!WITH )(?<!W )(?<!POST )\bIODINE\b(?! CONTRAST| INJECT| \d+ ?ML)|\bIOD(O|E)?[ -]?MAP|\bPBV\b"),
        _IODINE,
    ),
    (re.compile(r"\bVNCA?\b|\bVIRTUAL (NON|UN)|\bGSI VUE\b|\bCALCIUM[ -]SUPP"), _VNC),
    (re.compile(r"\bURIC ACID\b|\bMD[ :]+(IODINE|WATER|CALCIUM|FAT|HAP)\b|\b(WATER|CALCIUM|FAT|HAP) ?\("), _MAP),
    (re.compile(r"\bZ[ -]?EFF\b|\bEFFECTIVE (Z|ATOMIC)\b"), _EFFECTIVE_Z),
    (re.compile(r"\bELECTRON DENSITY\b"), _DENSITY),
    (re.compile(r"\bSUBTRACT(ION|ED)\b"), _SUBTRACTION),
    (re.compile(r"\b(CBF|CBV|MTT|TTP|TMAX)\b|\bPERFUSION MAP|\bPERFUSED BLOOD|\bBLOOD (FLOW|VOLUME)\b"), _PERFUSION),
)
_CAPTURE_CLASSES = "1.2.840.10008.5.1.4.1.1.7"


def image_kind(values: HeaderValues, image_type: tuple[str, ...]) -> str:
    """Name what an image shows.

    Args:
        values: its header.
        image_type: its ImageType, or its frame's FrameType.

    Returns:
        "" for a slice of a scan; else for example "localiser", "iodine map", "image in mg/ml (RescaleType)".
    """
    return (
        _kind_by_type(image_type)
        or _kind_by_units(values)
        or _TECHNIQUES.get(values.text("VolumeBasedCalculationTechnique"), "")
        or (_CURVED if values.text("VolumetricProperties") == "DISTORTED" else "")
        or _kind_by_codes(values)
        or (SCREENSHOT if _is_capture(values) else "")
        or _kind_by_text(values, image_type)
    )


@functools.lru_cache(maxsize=256)
def _kind_by_type(image_type: tuple[str, ...]) -> str:
    words = [re.sub(r"[^A-Z0-9.]+", " ", value.upper()).strip() for value in image_type]
    # A perfusion acquisition (third value) is a scan, what is derived from it a map.
    if words[:1] == ["DERIVED"] and "PERFUSION" in words[2:]:
        return _PERFUSION
    # The first two values say where the pixels come from; the third and further ones say what they show.
    for word in words[2:]:
        if word in _IMAGE_TYPES:
            return _IMAGE_TYPES[word]
    for word in words[2:]:
        for pattern, kind in _MAKERS_WORDS:
            if pattern.search(word):
                return kind
    return _IMAGE_TYPES["LOCALIZER"] if "LOCALIZER" in words else ""


def _kind_by_units(values: HeaderValues) -> str:
    written = values.text("RescaleType")
    unit = written.upper()
    if unit in _RESCALE_TYPES:
        return _RESCALE_TYPES[unit]
    if unit not in _HOUNSFIELD_TYPES:
        return f"image in '{written[:16]}' (RescaleType), not Hounsfield units"
    if unit in ("", "US"):
        mapped = [
            str(code.get("CodeValue", "") or "")
            for mapping in values.sequence("RealWorldValueMappingSequence")
            for code in mapping.get("MeasurementUnitsCodeSequence", None) or []
        ]
        if mapped and not _HOUNSFIELD_UNIT_CODES & set(mapped):
            return f"image in '{mapped[0][:16]}' (MeasurementUnitsCodeSequence), not Hounsfield units"
    return ""


def _kind_by_codes(values: HeaderValues) -> str:
    for code in values.sequence("DerivationCodeSequence"):
        kind = _DERIVATIONS.get(str(code.get("CodeValue", "") or ""), "")
        if kind:
            return kind
    return ""


def _is_capture(values: HeaderValues) -> bool:
    """True for the classes of screenshots; converters write scans with positions and rescale values in them too."""
    is_capture = values.text("SOPClassUID").startswith(_CAPTURE_CLASSES)
    return is_capture and not (values.text("ImagePositionPatient") and values.text("RescaleSlope"))


def _kind_by_text(values: HeaderValues, image_type: tuple[str, ...]) -> str:
    if not image_type or image_type[0].upper() != "DERIVED":
        return ""
    text = " ".join(values.text(keyword) for keyword in ("SeriesDescription", "ImageComments", "DerivationDescription"))
    words = re.sub(r"[_\\/]+", " ", text.upper())
    for pattern, kind in _FREE_TEXT:
        if pattern.search(words):
            return kind
    return ""


def plural_of(kind: str) -> str:
    """The plural of a kind, for messages: "iodine maps", "images in 'mg/ml' …"."""
    head, mark, tail = kind.partition(" in ")
    if mark:
        return f"{head}s in {tail}"
    head, mark, tail = kind.partition(" (")
    if mark:
        return f"{head}s ({tail}"
    head, mark, tail = kind.partition(" without ")
    if mark:
        return f"{head}s without {tail}"
    return {
        SCREENSHOT: "screenshots or report pages",
        "quotient of images": "quotients of images",
        "sum of images": "sums of images",
        "product of images": "products of images",
    }.get(kind, f"{kind}s")


def document_kind(modality: str) -> str:
    """What a file without slices is, by its modality; "" for those of images."""
    return _DOCUMENTS.get(modality, "")


_DOCUMENTS: dict[str, str] = {
    "SR": "structured report",
    "RTSTRUCT": "structure set",
    "RTPLAN": "radiotherapy plan",
    "RTDOSE": "dose distribution",
    "RTRECORD": "treatment record",
    "SEG": "segmentation",
    "PR": "presentation state",
    "KO": "key object selection",
    "REG": "registration",
    "DOC": "document",
    "FID": "fiducials",
    "RWV": "real world value mapping",
    "PLAN": "plan",
    "SC": "screenshot",
    "OT": "screenshot",
}
