"""An annotator at 3D Slicer with MONAI Label's module: the same requests in the same order, the same scene behind them.

Each method follows the method of the module that its docstring names, down to the parameters it sends without being
asked (the whole config of a model, ``result_extension``, a fresh client a request). Requests go through MONAI Label's
own client, which is the file that the module ships.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import numpy as np
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray
from tests.support.slicer_client import SlicerRoi, SlicerScene

from medai.geometry import VolumeGeometry

Json = dict[str, Any]
Points = Sequence[Sequence[float]] | NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server answered to an inference: the file as it lies on the annotator's disk, and the parameters."""

    path: Path
    params: Json
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class SlicerAnnotator:
    """One annotator: a scene, a server, and the state that the module keeps between clicks.

    Attributes:
        scene: may be shared by several annotators of a test as long as only one has a case open.
        server_url: as typed into the module.
        folder: the module's temporary folder; emptied by nobody.
        client_id: the annotator's name, as set in the module's settings.
        shares_files: whether paths of the server exist on the annotator's machine; else scans are downloaded.
    """

    scene: SlicerScene
    server_url: str
    folder: Path
    client_id: str = "user-xyz"
    shares_files: bool = True
    info: Json = field(default_factory=dict)
    sample: Json = field(default_factory=dict)
    geometry: VolumeGeometry | None = None
    _files: int = 0

    def client(self) -> MONAILabelClient:
        """``MONAILabelLogic._client``: a new one for each request, and a look whether to log in."""
        client = MONAILabelClient(self.server_url, str(self._new_folder()), self.client_id)
        if client.auth_enabled():
            raise RuntimeError("The server asks for a login, which this annotator does not have.")
        return client

    def _new_folder(self) -> Path:
        self._files += 1
        folder = self.folder / f"{self.client_id}_{self._files}"
        folder.mkdir(parents=True)
        return folder

    def fetch_info(self) -> Json:
        """``fetchInfo``: what the server offers."""
        self.info = self.client().info()
        return self.info

    def models(self, *types: str) -> list[str]:
        """The entries of a model selector, in the server's order (``updateSelector``)."""
        return [name for name, model in self.info["models"].items() if model["type"] in types]

    def config(self, section: str, name: str) -> Json:
        """``getParamsFromConfig``: every option as it stands in the table; of a list the first."""
        options = self.info[section][name].get("config", {})
        return {key: value[0] if isinstance(value, list) else value for key, value in options.items()}

    # A case

    def next_sample(self, strategy: str) -> Json:
        """``onNextSampleButton`` up to the empty segments; {} where no case is left."""
        sample = self.client().next_sample(strategy, self.config("strategies", strategy))
        if not sample.get("id"):
            return {}
        self.open(sample)
        return self.sample

    def open(self, sample: Json) -> None:
        """The part of ``onNextSampleButton`` after the answer: scan, earlier label, ``initSample``."""
        path = Path(sample.get("path") or "")
        if not (self.shares_files and path.is_file()):
            path = self._download(sample)
        self.sample = sample
        name = sample.get("PatientID", sample.get("name", sample["id"]))
        self.geometry = self.scene.load_volume(path, name)
        original = self.client().datastore()["objects"][sample["id"]]["labels"].get("original")
        if original:
            names = list(original["info"].get("params", {}).get("label_names", {})) or self.info["labels"]
            self.scene.import_mask(Path(self.client().download_label(sample["id"], "original")), names)
        self.scene.add_empty_segments(self.info["labels"])

    def open_case(self, study: Path, case_id: str) -> None:
        """Open a chosen case of a study folder, by the file that lies there."""
        (path,) = study.glob(f"{case_id}.n*")
        self.open({"id": case_id, "path": str(path), "name": path.name})

    def _download(self, sample: Json) -> Path:
        path = self._new_folder() / Path(str(sample.get("name", sample["id"]))).name
        url = f"{self.server_url}/datastore/image?image={quote_plus(sample['id'])}"
        with urllib.request.urlopen(url, timeout=60) as response:
            path.write_bytes(response.read())
        return path

    def auto_model(self) -> str:
        """What ``initSample`` runs by itself on a new case: the Auto selector's entry after its search by label."""
        selectable = self.models("segmentation", "detection")
        for label in self.info["labels"]:
            for name, model in self.info["models"].items():
                if label in model["labels"]:
                    return name if name in selectable else selectable[0]
        return selectable[0]

    # Inference

    def _infer(self, model: str, params: Json, label_in: Path | None = None) -> tuple[Path, Json]:
        params = params | {"result_extension": ".nrrd", "result_dtype": "uint8"}
        path, answer = self.client().infer(
            model,
            self.sample["id"],
            params,
            str(label_in) if label_in else None,
            session_id=self.sample.get("session_id"),
        )
        return Path(path), answer

    def segment(self, model: str) -> Reply:
        """``onClickSegmentation`` with a segmentation model: names by value, then the import."""
        path, params = self._infer(model, self.config("models", model))
        labels = params.get("label_names") or self.info["models"][model]["labels"]
        if isinstance(labels, dict):
            labels = [name for name, _ in sorted(labels.items(), key=lambda item: item[1])]
        self.scene.import_mask(path, labels)
        return Reply(path=path, params=params, names=list(labels))

    def detect(self, model: str) -> tuple[Reply, list[SlicerRoi]]:
        """``onClickSegmentation`` with a detection model: boxes."""
        path, params = self._infer(model, self.config("models", model))
        if path.suffix != ".json":
            raise RuntimeError(f"A detection model must reply with a .json for its boxes to be shown, not {path.name}.")
        return Reply(path=path, params=params), self.scene.load_markups(path)

    def click(
        self,
        model: str,
        label: str,
        foreground_ras_mm: Points,
        background_ras_mm: Points = (),
        *,
        roi: list[int] | None = None,
    ) -> Reply:
        """``onClickDeepgrow``: all points of a segment go along, and the reply becomes that segment."""
        if label not in self.scene.segment_names():
            raise RuntimeError(f"Add a segment '{label}' first: the module refuses to click without one.")
        params: Json = {
            "label": label,
            "foreground": self.scene.points_to_ijk(foreground_ras_mm),
            "background": self.scene.points_to_ijk(background_ras_mm),
        }
        params |= self.config("models", model)
        if roi:
            params["roi"] = roi
        path, answer = self._infer(model, params)
        self.scene.import_mask(path, [label])
        return Reply(path=path, params=answer, names=[label])

    def scribble(self, method: str, label: str) -> Reply:
        """``onUpdateScribbles``: what was drawn goes along, and the reply becomes the chosen segment."""
        path = self._new_folder() / "scribbles.nii.gz"
        label_info = self.scene.export_scribbles(path)
        params = self.config("models", method)
        params |= {"roi": [], "label_info": label_info, "selected_label_name": label}
        answer_path, answer = self._infer(method, params, path)
        self.scene.import_mask(answer_path, [label])
        return Reply(path=answer_path, params=answer, names=[label])

    # Submission

    def submit(self, extension: str = ".nii.gz") -> tuple[Json, Path]:
        """``onSaveLabel``; returns the server's answer and the file that was sent."""
        path = self._new_folder() / f"label{extension}"
        label_info = self.scene.export_label(path)
        result = self.client().save_label(self.sample["id"], str(path), params={"label_info": label_info})
        self.fetch_info()
        return result, path

    def submit_boxes(self) -> tuple[Json, Path]:
        """``onSaveLabel`` while a detection model is chosen."""
        path = self._new_folder() / "label.json"
        self.scene.save_rois(path)
        result = self.client().save_label(self.sample["id"], str(path), params={"label_info": []})
        self.fetch_info()
        return result, path

    # Training

    def train(self, trainer: str, **options: Any) -> Json:
        """``onTraining`` with some rows of the options table changed."""
        return dict(self.client().train_start(trainer, self.config("trainers", trainer) | options))

    def is_training(self) -> bool:
        """``isTrainingRunning``."""
        return bool(self.client().train_status(True))

    def watch_training(
        self, *, timeout_s: float, on_poll: Callable[[], None] | None = None
    ) -> tuple[Json, list[float]]:
        """``monitorTraining`` until the task no longer runs.

        Returns:
            The task's last status, and the per cent shown by the progress bar at each look.
        """
        percents: list[float] = []
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            status = self.client().train_status(False)
            if status.get("status") not in ("RUNNING", "SUBMITTED", "PENDING"):
                self.fetch_info()
                return status, percents
            stats = next(iter(self.client().info()["train_stats"].values()), {})
            current = 0 if stats.get("total_time") else stats.get("epoch", 1)
            percents.append(max(1.0, 100 * current / stats.get("total_epochs", 1)))
            if on_poll:
                on_poll()
            time.sleep(0.5)
        raise TimeoutError(
            f"The training still runs after {timeout_s:.0f} s; the bar stood at {percents[-3:]} per cent."
        )
