"""What ``medai bench`` measures on must be what a model answers on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medai.phantom import PhantomConfig, make_phantom
from medai.server.benchmark import _add_warm_up_case
from medai.volume_io.plausibility import check_chest_ct
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_volume


def test_the_scan_that_warms_the_server_up_is_a_piece_of_a_chest_with_the_nodule(tmp_path: Path):
    phantom = make_phantom(
        PhantomConfig(shape_ijk=(200, 190, 90), spacing_mm=(1.7, 1.6, 2.5)), np.random.default_rng(1)
    )
    write_volume(phantom.volume, tmp_path / "bench.nii.gz")
    i, j, k = (round(float(c)) for c in phantom.volume.geometry.ras_to_ijk(phantom.nodules[0].centre_ras_mm))
    place_ijk = _add_warm_up_case(tmp_path, tmp_path / "bench.nii.gz", (i, j, k))
    piece = read_volume(tmp_path / "warm_up.nii.gz")
    check_chest_ct(piece)
    assert piece.image_hu[place_ijk] == phantom.volume.image_hu[i, j, k]
