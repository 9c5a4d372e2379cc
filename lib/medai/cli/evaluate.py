"""``medai evaluate``: how good a model is, on data with the answers beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medai.cli.evaluation_tables import show_classification, show_detection, show_segmentation, tell_oddities
from medai.cli.output import JsonOption, console, progress_bar, stoppable, write_json
from medai.cli.targets import output_folder
from medai.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from medai.inference.detect import NoduleDetector

app = typer.Typer(help="Measure how good a model is on data with the answers beside it.", no_args_is_help=True)

NOTHING_KEPT = "Nothing is kept of an evaluation that was stopped; --limit N takes the first N cases alone."
MARKS_NOT_KEPT = "Nothing is kept; with --marks FILE the marks are, and the same command goes on from there."

DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder with the scans and the answers.")]
StudiesOption = Annotated[
    Path | None,
    typer.Option("--studies", metavar="STUDIES", help="Judge the model this study has trained; default: the starter."),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Judge these weights instead (.safetensors).")
]
PlotsOption = Annotated[
    Path | None,
    typer.Option(
        "--plots",
        metavar="FOLDER",
        help="Where the PNG and the HTML page go; default: beside the JSON.",
        callback=output_folder,
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
SeedOption = Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")]
LimitOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N cases.")]
HeldBackOption = Annotated[
    bool, typer.Option("--held-back-only", help="Only patients the starter models have not trained on.")
]


@app.command("segmentation")
def segmentation(
    data: DataOption,
    click: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="First click: centre (within 3 mm of the innermost voxel), anywhere in the nodule, or innermost.",
        ),
    ] = "centre",
    clicks: Annotated[int, typer.Option(min=1, max=50, help="Clicks a nodule; each further one corrects.")] = 1,
    held_back_only: HeldBackOption = False,
    limit: LimitOption = None,
    seed: SeedOption = 1,
    weights: WeightsOption = None,
    studies: StudiesOption = None,
    device: DeviceOption = "auto",
    plots: PlotsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Outline nodules by simulated clicks: Dice, surfaces, volume, calibration (images/, masks/, nodules.csv)."""
    from medai.evaluation.simulated_clicks import ClickPlace

    if click not in list(ClickPlace):
        raise InputError(f"--click is '{click}': choose one of {', '.join(ClickPlace)}.")
    from medai.store.layout import engines_folder
    from medai.workflows.evaluate_segmentation import evaluate_segmentation
    from medai.workflows.evaluated_models import evaluated_model, load_segmenter
    from medai.workflows.evaluation_figures import draw_segmentation
    from medai.workflows.segmentation_report import SegmentationConfig

    screen = console(json_file)
    model = evaluated_model("nodule_click", studies=studies, weights=weights)
    config = SegmentationConfig(
        place=ClickPlace(click), clicks=clicks, seed=seed, held_back_only=held_back_only, limit=limit
    )
    with stoppable(NOTHING_KEPT), progress_bar(screen) as bar:
        task = bar.add_task("Outlining nodules", total=None)
        report = evaluate_segmentation(
            data,
            load_segmenter(model, device=device, cache_folder=engines_folder()),
            config,
            model=model.to_json(),
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    figures = report.to_json()
    write_json(json_file, figures)
    show_segmentation(screen, figures)
    _draw(screen, lambda png, page: draw_segmentation(report, png, page), plots, json_file, "segmentation")
    tell_oddities(screen, figures)


@app.command("classification")
def classification(
    data: DataOption,
    outline: Annotated[
        str,
        typer.Option(metavar="WHOSE", help="The figures are of the folder's outlines (reference) or of ours (click)."),
    ] = "reference",
    held_back_only: HeldBackOption = False,
    limit: LimitOption = None,
    seed: SeedOption = 1,
    weights: WeightsOption = None,
    studies: StudiesOption = None,
    device: DeviceOption = "auto",
    plots: PlotsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Rate nodules: AUC of malignancy, its gain over size, attributes (images/, masks/, nodules.csv)."""
    from medai.store.layout import engines_folder
    from medai.workflows.classification_report import ClassificationConfig, RatedOutline
    from medai.workflows.evaluate_classification import evaluate_classification
    from medai.workflows.evaluated_models import evaluated_model, load_classifier, load_segmenter
    from medai.workflows.evaluation_figures import draw_classification

    if outline not in list(RatedOutline):
        raise InputError(f"--outline is '{outline}': choose one of {', '.join(RatedOutline)}.")
    screen = console(json_file)
    model = evaluated_model("nodule_classification", studies=studies, weights=weights)
    click_model = evaluated_model("nodule_click", studies=studies)
    config = ClassificationConfig(outline=RatedOutline(outline), seed=seed, held_back_only=held_back_only, limit=limit)
    with stoppable(NOTHING_KEPT), progress_bar(screen) as bar:
        task = bar.add_task("Rating nodules", total=None)
        report = evaluate_classification(
            data,
            load_classifier(model, device=device, cache_folder=engines_folder()),
            load_segmenter(click_model, device=device, cache_folder=engines_folder()),
            config,
            model=model.to_json(),
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    figures = report.to_json()
    write_json(json_file, figures)
    show_classification(screen, report, figures)
    _draw(screen, lambda png, page: draw_classification(report, png, page), plots, json_file, "classification")
    tell_oddities(screen, figures)


@app.command("detection")
def detection(
    data: DataOption,
    marks: Annotated[
        Path | None,
        typer.Option(
            "--marks",
            metavar="FILE",
            help="LUNA16 submission: scored if somebody else's, else kept there to go on with after a stop.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="P", help="A scan is positive from this probability on; default: the model's."),
    ] = None,
    limit: LimitOption = None,
    seed: SeedOption = 1,
    weights: WeightsOption = None,
    studies: StudiesOption = None,
    device: DeviceOption = "auto",
    plots: PlotsOption = None,
    json_file: JsonOption = None,
) -> None:
    """Find nodules: FROC and CPM by the LUNA16 rules, on a LUNA16 download as it is or the same layout of one's own."""
    from medai.inference.detect import load_detector
    from medai.store.layout import engines_folder
    from medai.workflows.detection_report import DetectionConfig
    from medai.workflows.evaluate_detection import evaluate_detection
    from medai.workflows.evaluated_models import evaluated_model
    from medai.workflows.evaluation_figures import draw_detection
    from medai.workflows.marks_cache import foreign_marks

    screen = console(json_file)
    config = DetectionConfig(threshold=threshold, seed=seed, limit=limit)
    # Somebody's marks need no model, not even an installed one.
    is_foreign = marks is not None and foreign_marks(marks) is not None
    model = None if is_foreign else evaluated_model("nodule_detection", studies=studies, weights=weights)

    def load() -> NoduleDetector:
        found = model or evaluated_model("nodule_detection", studies=studies, weights=weights)
        return load_detector(found.weights_path, device=device, cache_folder=engines_folder())

    kept = f"The marks so far are in {marks}: the same command goes on." if marks else MARKS_NOT_KEPT
    with stoppable(kept), progress_bar(screen) as bar:
        task = bar.add_task("Finding nodules", total=None)
        report = evaluate_detection(
            data,
            load,
            config,
            model=model.to_json() if model else {},
            marks_file=marks,
            on_progress=lambda done, total, scan: bar.update(
                task, completed=done, total=total, description=f"Finding nodules {scan[-12:]}"
            ),
        )
    figures = report.to_json()
    write_json(json_file, figures)
    show_detection(screen, figures)
    _draw(screen, lambda png, page: draw_detection(report, png, page), plots, json_file, "detection")
    tell_oddities(screen, figures)


def _draw(
    screen: Console, draw: Callable[[Path, Path], None], plots: Path | None, json_file: Path | None, name: str
) -> None:
    """Draw the pictures where there is a place for them."""
    from medai.workflows.evaluation_figures import figure_paths

    beside = json_file if json_file is not None and str(json_file) != "-" else None
    folder = plots or (beside.parent if beside else None)
    if folder is None:
        return
    png, page = figure_paths(folder, beside.stem if beside and plots is None else name)
    draw(png, page)
    screen.print(f"[dim]{png} · {page}[/]")
