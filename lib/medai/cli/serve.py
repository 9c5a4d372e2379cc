"""``medai serve``: the annotation server."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from medai.cli.targets import output_file

DEFAULT_PORT = 8000


def serve(
    studies: Annotated[
        Path, typer.Argument(help="Study folder: scans as .nii.gz, .nii, .nrrd (medai import makes one).")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but loopback opens it to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = DEFAULT_PORT,
    conf: Annotated[
        list[str] | None,
        typer.Option(
            "--conf",
            metavar="KEY=VALUE",
            help="Setting of the app, repeatable, also as KEY VALUE; an unknown key lists the valid ones.",
        ),
    ] = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Serve a folder without scans, for clients to upload into.")
    ] = False,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write address and process id to FILE once the server runs.",
            callback=output_file,
        ),
    ] = None,
) -> None:
    """Serve a study folder to 3D Slicer."""
    from medai.cli.output import console, write_json
    from medai.errors import InputError

    settings: dict[str, str] = {}
    for item in conf or []:
        key, separator, value = item.partition("=")
        if not separator:
            raise InputError(f"--conf takes KEY=VALUE or KEY VALUE, not '{item}' alone.")
        settings[key.strip()] = value.strip()
    if not allow_empty and studies.is_dir():
        _check_scans(studies)
    from medai.server.launch import LaunchOptions, run_server

    screen = console()

    def announce(url: str) -> None:
        screen.print(
            f"\n[bold green]medai serves {studies} on {url}[/]\n\n"
            "In 3D Slicer:\n"
            "  1. View > Extensions Manager: install [bold]MONAILabel[/] (once), restart Slicer.\n"
            "  2. Module [bold]Active Learning > MONAI Label[/]; MONAI Label server: "
            f"[bold]{url}[/], press the refresh arrow.\n"
            "  3. [bold]Next Sample[/] loads a scan. Auto Segmentation > nodule_segmentation > [bold]Run[/] proposes "
            "nodules.\n"
            "  4. SmartEdit > nodule_click: add a segment, place a foreground point on a nodule.\n"
            "  5. Correct with the Segment Editor, [bold]Submit Label[/], later [bold]Train[/].\n\n"
            "Ctrl+C stops the server; nothing submitted is lost.\n"
        )
        write_json(json_file, {"url": url, "process_id": os.getpid(), "studies": str(studies)})

    run_server(LaunchOptions(studies=studies, host=host, port=port, conf=settings, on_ready=announce))
    _leave()


def join_conf(arguments: Sequence[str]) -> list[str]:
    """Turn MONAI Label's ``--conf KEY VALUE`` into ``--conf KEY=VALUE``, which is what the options' parser knows.

    Args:
        arguments: of the command line, without the program's name.
    """
    joined: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        joined.append(argument)
        if argument == "--":
            return joined + left
        if argument == "--conf" and len(left) > 1 and "=" not in left[0] and not left[1].startswith("--"):
            joined.append(f"{left.pop(0)}={left.pop(0)}")
    return joined


def _check_scans(studies: Path) -> None:
    """Refuse a folder without scans: every annotator would be told that there is nothing to do."""
    from medai.errors import InputError
    from medai.store.study import StudyStore
    from medai.workflows.study_contents import missing_scans_words

    if not StudyStore(studies, read_only=True).image_ids():
        raise InputError(
            f"{missing_scans_words(studies)}. For a folder that clients are to upload into add --allow-empty."
        )


def _leave() -> NoReturn:
    """End the process at once: all is on disk, and tearing torch and OpenVINO down would take seconds."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
