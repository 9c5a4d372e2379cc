"""An uploaded DICOM series becomes one file, in a process of its own: ``python -m medai.server.dicom_worker``.

The first line on standard input is the job (JSON): the folder, the file to write, the budget. Decoders of compressed
pixels may end the process that they run in, whatever is checked before; here that is one refused upload and not the
server. Exit code 0: written; 2: cannot be used, the last line on standard output says why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from medai.errors import InputError, MedaiError
from medai.volume_io.options import ReadBudget, ReadOptions

EXIT_REFUSED = 2
LONGEST_S = 300.0
"""A series of a thousand slices takes a minute on two cores."""


def convert_series(
    folder: Path,
    target: Path,
    *,
    timeout_s: float = LONGEST_S,
    budget: ReadBudget = ReadBudget(),  # noqa: B008 - frozen
) -> None:
    """Read the one CT series of a folder and write it as a volume file; blocking.

    Args:
        folder: holds the series; what merely lies beside it is left out.
        target: a ``.nii.gz`` file.
        timeout_s: after this the series is refused.
        budget: the largest series that is read.

    Raises:
        InputError: no series, several, one that is no CT in Hounsfield units, or one that its decoder fails on.
    """
    job = json.dumps({"folder": str(folder), "target": str(target), "budget": asdict(budget)})
    command = [sys.executable, "-m", "medai.server.dicom_worker"]
    try:
        done = subprocess.run(
            command, input=job + "\n", capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"The DICOM files could not be read within {timeout_s:g} s: bring them into the study by medai import."
        ) from error
    if done.returncode == EXIT_REFUSED:
        raise InputError(done.stdout.strip().splitlines()[-1])
    if done.returncode != 0 or not target.is_file():
        raise InputError("The DICOM files are damaged in a way their decoder does not survive: export them again.")


def main() -> int:
    """Convert as told on standard input; returns the exit code."""
    job = json.loads(sys.stdin.readline())
    from medai.volume_io.plausibility import check_chest_ct
    from medai.volume_io.readers import read_volume
    from medai.volume_io.writers import write_volume

    try:
        options = ReadOptions(budget=ReadBudget(**job["budget"]))
        volume = read_volume(Path(job["folder"]), options=options)
        check_chest_ct(volume)
        write_volume(volume, Path(job["target"]))
    except MedaiError as error:
        words = _several_series(Path(job["folder"])) or str(error)
        sys.stdout.write(" ".join(words.split()) + "\n")
        return EXIT_REFUSED
    return 0


def _several_series(folder: Path) -> str:
    """What to do where the files are of several series, for a sender who knows no folder of ours; "" where not."""
    from medai.volume_io.dicom_series import scans_among, series_at

    try:
        among = scans_among(series_at(folder))
    except MedaiError:
        return ""
    listed = "; ".join(series.describe() for series in among)
    return f"The files are of {len(among)} series: {listed}. Send those of one." if len(among) > 1 else ""


if __name__ == "__main__":
    sys.exit(main())
