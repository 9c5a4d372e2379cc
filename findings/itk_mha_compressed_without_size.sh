#!/bin/sh
# ITK (SimpleITK 2.5.7, ITK 5.4; 3D Slicer 5.13's libraries alike) opens a compressed MetaImage whose voxels are in the
# same file and whose header lacks the optional CompressedDataSize line without any error, and hands out whatever was in
# memory. With the line, or with the voxels in a file of their own, the same bytes are read right.
# Seen: "with the line: [0, 1, 2] ... 209", "without it: [-2474, 15112, 21952] ... 0" (other numbers in each run), exit 0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q SimpleITK==2.5.7
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import array
import sys
import zlib

import SimpleITK

values = array.array("h", range(210))
packed = zlib.compress(values.tobytes())
header = "NDims = 3\nDimSize = 5 6 7\nElementType = MET_SHORT\nCompressedData = True\n"
found = {}
for name, line in (("with the line", f"CompressedDataSize = {len(packed)}\n"), ("without it", "")):
    with open("image.mha", "wb") as stream:
        stream.write((header + line + "ElementDataFile = LOCAL\n").encode() + packed)
    image = SimpleITK.ReadImage("image.mha")
    found[name] = [image.GetPixel(i, j, k) for k in range(7) for j in range(6) for i in range(5)]
    print(f"{name}: {found[name][:3]} ... {found[name][-1]}")
if found["with the line"] != list(values):
    sys.exit("the file with the line is not read right any more")
if found["without it"] == list(values):
    sys.exit("the file without the line is read right now")
PY
