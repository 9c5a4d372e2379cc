#!/bin/sh
# The NIfTI-1 standard has the voxels of a single file begin at byte 352 or later: the header is 348 bytes and a field of
# 4 follows. Files with vox_offset 0 are about. No two libraries agree on them, and none says a word: ITK (SimpleITK
# 2.5.7, ITK 5.4; 3D Slicer 5.13's libraries alike) reads from byte 348, an int16 image shifted by two voxels; nibabel
# 5.4.2 reads from byte 0, so the header is part of the image.
# Seen: "vox_offset 352, SimpleITK: [1, 2, 3, 4]", "vox_offset 0, SimpleITK: [0, 0, 1, 2]",
# "vox_offset 0, nibabel: [348, 0, 0, 0]", exit 0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q SimpleITK==2.5.7 nibabel==5.4.2
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import nibabel
import numpy as np
import SimpleITK

values = np.arange(1, 211, dtype=np.int16).reshape((5, 6, 7), order="F")
nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), "image.nii")
whole = bytearray(open("image.nii", "rb").read())
whole[108:112] = bytes(4)
open("zero.nii", "wb").write(whole)
right = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("image.nii")).ravel()
shifted = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage("zero.nii")).ravel()
nibabels = np.asarray(nibabel.load("zero.nii").dataobj).ravel(order="F")
print("vox_offset 352, SimpleITK:", right[:4].tolist())
print("vox_offset 0, SimpleITK:", shifted[:4].tolist())
print("vox_offset 0, nibabel:", nibabels[:4].tolist())
if right.tolist() != list(range(1, 211)):
    sys.exit("the right reading has changed")
if shifted.tolist() != [0, 0, *range(1, 209)]:
    sys.exit("SimpleITK reads vox_offset 0 in another way now")
if nibabels[0] != 348:
    sys.exit("nibabel reads vox_offset 0 in another way now")
PY
