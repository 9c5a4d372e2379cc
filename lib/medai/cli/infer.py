"""``medai infer``: one scan on the command line, by click or whole, or every scan of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.executor_options import (
    AddressOption,
    ExecutorName,
    ExecutorOption,
    WorkersOption,
    build_executor,
    own_output,
)
from medai.cli.output import JsonOption, console, write_json
from medai.cli.targets import check_file, output_file, output_file_or_folder
from medai.errors import InputError

if TYPE_CHECKING:
    from medai.domain import Volume
    from medai.geometry import IndexBox
    from medai.workflows.infer_case import ScanOutcome

app = typer.Typer(help="Find or outline nodules in one scan.", no_args_is_help=True)

ImageOption = Annotated[
    Path, typer.Option("--image", metavar="FILE", help="Scan: NIfTI, NRRD, MetaImage or a DICOM folder.")
]
PictureOption = Annotated[
    Path | None,
    typer.Option(
        "--picture",
        metavar="FILE",
        help="Also draw the nodules in three planes: .png, .jpg, .pdf.",
        callback=output_file,
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", metavar="FILE", help="Label map to write: .nrrd, .seg.nrrd or .nii.gz.", callback=output_file
    ),
]
ModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--studies", metavar="STUDIES", help="Use the models this study has trained; default: the starter models."
    ),
]

FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="ENDING", help="Folder: what label maps are written as; default: .seg.nrrd."),
]
AnewOption = Annotated[bool, typer.Option("--anew", help="Folder: scans that were answered already, too.")]


LABEL_MAP_ENDINGS = (".nrrd", ".nii.gz", ".nii", ".mha")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".pdf")


def _check_endings(out: Path, picture: Path | None) -> None:
    """Refuse what cannot be written before the scan is read."""
    for option, path, endings in (("--out", out, LABEL_MAP_ENDINGS), ("--picture", picture, PICTURE_ENDINGS)):
        if path is not None and not path.name.lower().endswith(endings):
            raise InputError(f"{option} is '{path}'; its name ends in one of {', '.join(endings)}.")


def _index(text: str, option: str) -> tuple[int, int, int]:
    try:
        i, j, k = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} takes three whole voxel indices i,j,k such as 210,188,64, not '{text}'.") from error
    return (i, j, k)


def _region(text: str | None) -> IndexBox | None:
    if text is None:
        return None
    from medai.geometry import IndexBox

    try:
        i0, i1, j0, j1, k0, k1 = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--roi takes imin,imax,jmin,jmax,kmin,kmax (whole voxel indices), not '{text}'.") from error
    low = (min(i0, i1), min(j0, j1), min(k0, k1))
    return IndexBox(start_ijk=low, stop_ijk=(max(i0, i1) + 1, max(j0, j1) + 1, max(k0, k1) + 1))


@app.command("click")
def click(
    image: ImageOption,
    out: OutOption,
    point: Annotated[list[str], typer.Option("--point", metavar="I,J,K", help="Voxel inside the nodule, repeatable.")],
    background: Annotated[
        list[str] | None, typer.Option("--background", metavar="I,J,K", help="Voxel outside the nodule, repeatable.")
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option("--roi", metavar="IMIN,IMAX,JMIN,JMAX,KMIN,KMAX", help="Keep the outline inside this box."),
    ] = None,
    studies: ModelsOption = None,
    picture: PictureOption = None,
    json_file: JsonOption = None,
) -> None:
    """Outline the nodule at a point."""
    _check_endings(out, picture)
    foreground_ijk = [_index(text, "--point") for text in point]
    background_ijk = [_index(text, "--background") for text in background or []]
    region = _region(roi)
    from medai.store.layout import engines_folder
    from medai.workflows.infer_case import infer_click
    from medai.workflows.models import open_registry

    volume = _read(image)
    outcome = infer_click(
        image,
        foreground_ijk=foreground_ijk,
        background_ijk=background_ijk,
        roi=region,
        registry=open_registry(studies),
        out=out,
        read=lambda _: volume,
        cache_folder=engines_folder(),
    )
    _draw(picture, volume, outcome)
    nodule = outcome.nodule
    screen = console(json_file)
    screen.print(f"{nodule.diameter_mm:.1f} mm, {nodule.volume_mm3:.0f} mm³, {nodule.kind} → {out}")
    write_json(json_file, outcome.to_json())


@app.command("scan")
def scan(
    image: Annotated[
        Path,
        typer.Option(
            "--image", metavar="FILE|FOLDER", help="Scan: NIfTI, NRRD, MetaImage, a DICOM folder; or a folder of scans."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FILE|FOLDER",
            help="Label map to write: .nrrd, .seg.nrrd, .nii.gz; a folder for many scans.",
            callback=output_file_or_folder,
        ),
    ],
    studies: ModelsOption = None,
    picture: PictureOption = None,
    file_format: FormatOption = None,
    anew: AnewOption = False,
    executor: ExecutorOption = ExecutorName.INPROCESS,
    workers: WorkersOption = None,
    address: AddressOption = None,
    json_file: JsonOption = None,
) -> None:
    """Find and outline every nodule of a scan, or of every scan of a folder.

    A folder's answers are kept as they come; stopped or killed, the same command goes on.
    """
    from medai.cli.infer_folder import is_folder_of_scans, scan_folder

    who = build_executor(executor, workers=workers, address=address, device="auto")
    if is_folder_of_scans(image, out):
        if picture is not None:
            raise InputError("--picture draws one scan; this is a folder of scans.")
        scan_folder(
            image,
            out,
            who,
            own_output(executor),
            studies=studies,
            file_format=file_format,
            anew=anew,
            json_file=json_file,
        )
        return
    many = {
        "--executor ray": executor is ExecutorName.RAY,
        "--workers": workers,
        "--format": file_format,
        "--anew": anew,
    }
    if given := [name for name, value in many.items() if value]:
        raise InputError(f"{', '.join(given)} is for a folder of scans; '{image}' is one scan.")
    _scan_one(image, out, studies=studies, picture=picture, json_file=json_file)


def _scan_one(image: Path, out: Path, *, studies: Path | None, picture: Path | None, json_file: Path | None) -> None:
    from rich.table import Table

    from medai.store.layout import engines_folder
    from medai.workflows.infer_case import infer_scan
    from medai.workflows.models import open_registry

    check_file(out, option="--out")
    _check_endings(out, picture)
    screen = console(json_file)
    with screen.status("Looking for nodules"):
        volume = _read(image)
        outcome = infer_scan(
            image, registry=open_registry(studies), out=out, read=lambda _: volume, cache_folder=engines_folder()
        )
        _draw(picture, volume, outcome)
    table = Table(
        "segment",
        "diameter",
        "volume",
        "kind",
        "probability",
        title=f"{len(outcome.prediction.nodules)} nodules → {out}",
    )
    for name, nodule in zip(outcome.label_map.label_names, outcome.prediction.nodules, strict=False):
        table.add_row(
            name,
            f"{nodule.diameter_mm:.1f} mm",
            f"{nodule.volume_mm3:.0f} mm³",
            str(nodule.kind),
            f"{nodule.probability:.2f}",
        )
    screen.print(table)
    write_json(json_file, outcome.to_json())


def _read(image: Path) -> Volume:
    from medai.volume_io.plausibility import read_chest_ct

    return read_chest_ct(image)


def _draw(picture: Path | None, volume: Volume, outcome: ScanOutcome) -> None:
    if picture is not None:
        from medai.workflows.pictures import draw_prediction

        draw_prediction(volume, outcome.prediction, outcome.label_map, picture)
