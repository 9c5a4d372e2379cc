#!/bin/sh
# SimpleITK inverts the numbers of a CT whose PhotometricInterpretation is MONOCHROME1, before it rescales them.
#
# MONOCHROME1 tells a screen to paint low values white; the CT Image IOD allows it, and Hounsfield units remain stored
# value * RescaleSlope + RescaleIntercept. pydicom gives the stored values. SimpleITK's reader (GDCM underneath) turns
# each into 4095 - value first, so that air becomes denser than bone, without a warning; for 12 bits stored the lowest
# number of the scan becomes the highest of the scale.
#
# Seen with SimpleITK 2.5.2, pydicom 3.0.1, numpy 2.2.6:
#   pydicom   [-1024, 0, 976]
#   SimpleITK [3071, 2047, 1071]
#
# Exits 0 while this is so, 1 when SimpleITK reads what is stored.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SimpleITK==2.5.2 pydicom==3.0.1 numpy==2.2.6
"$folder/venv/bin/python" - "$folder/slice.dcm" <<'PYTHON'
import sys

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import FileDataset, FileMetaDataset

meta = FileMetaDataset()
meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = uid.CTImageStorage, "1.2.826.0.1.3680043.8.498.1"
meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
ct = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
ct.SOPClassUID, ct.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
ct.Modality, ct.ImagePositionPatient, ct.ImageOrientationPatient = "CT", [0, 0, 0], [1, 0, 0, 0, 1, 0]
ct.PixelSpacing, ct.RescaleSlope, ct.RescaleIntercept = [1, 1], 1, -1024
ct.SamplesPerPixel, ct.PhotometricInterpretation = 1, "MONOCHROME1"
ct.BitsAllocated, ct.BitsStored, ct.HighBit, ct.PixelRepresentation = 16, 12, 11, 0
ct.Rows, ct.Columns, ct.PixelData = 1, 3, np.array([0, 1024, 2000], "<u2").tobytes()
ct["PixelData"].VR = "OW"
pydicom.dcmwrite(sys.argv[1], ct, enforce_file_format=True)

right = (pydicom.dcmread(sys.argv[1]).pixel_array.astype(int) - 1024).ravel().tolist()
read = sitk.GetArrayFromImage(sitk.ReadImage(sys.argv[1])).astype(int).ravel().tolist()
print("pydicom  ", right)
print("SimpleITK", read)
sys.exit(0 if right == [-1024, 0, 976] and read == [3071, 2047, 1071] else 1)
PYTHON
