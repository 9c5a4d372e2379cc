"""The yardstick of ``medai bench click``: our network behind MONAI Label's own machinery, as its sample apps do it.

A stock app loads the whole scan from disk on every request, reorients it, runs the network where the click is, restores
the answer to the scan's grid and writes it with MONAI Label's writer. This is the only place where a large ``Basic*``
class of the platform is subclassed, and it is never served to annotators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import EnsureChannelFirstd, LoadImaged, MapTransform, Orientationd, ScaleIntensityRanged, ToNumpyd
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.transform.post import Restored

from medai.networks.residual_unet import ResidualUNet

PATCH_VOXELS = 64
"""Edge of the patch the stock task runs on; ours resamples to millimetres instead, at the same number of voxels."""


class CropAtClickd(MapTransform):  # type: ignore[misc]  # monai's classes are untyped
    """Cut a patch around the first foreground point; adds the two click channels."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Replace the image by [3, n, n, n] and remember where it was."""
        image = np.asarray(data["image"])[0]
        point = np.asarray(data["foreground"][0])
        padded_start = point - PATCH_VOXELS // 2
        start = np.clip(padded_start, 0, np.maximum(np.array(image.shape) - PATCH_VOXELS, 0))
        slices = tuple(slice(int(s), int(s) + PATCH_VOXELS) for s in start)
        patch = np.zeros((3, PATCH_VOXELS, PATCH_VOXELS, PATCH_VOXELS), dtype=np.float32)
        crop = image[slices]
        patch[0, : crop.shape[0], : crop.shape[1], : crop.shape[2]] = crop
        patch[(1, *(int(n) for n in point - start))] = 1.0
        data["whole_shape"], data["slices"], data["whole"] = image.shape, slices, data["image"]
        data["image"] = patch
        return data


class PasteBackd(MapTransform):  # type: ignore[misc]  # monai's classes are untyped
    """Put the thresholded patch back into a volume of the scan's shape."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Replace ``pred`` by a mask of the whole scan and give ``image`` its meta data back."""
        pred = np.asarray(data["pred"])[0] > 0
        whole = np.zeros((1, *data["whole_shape"]), dtype=np.uint8)
        target = whole[0][data["slices"]]
        target[...] = pred[: target.shape[0], : target.shape[1], : target.shape[2]]
        data["pred"], data["image"] = whole, data["whole"]
        return data


class StockClickTask(BasicInferTask):  # type: ignore[misc]  # monailabel's classes are untyped
    """A click task as MONAI Label's sample apps write it."""

    def __init__(self) -> None:
        super().__init__(
            None, ResidualUNet(), InferType.DEEPGROW, {"nodule": 1}, 3, "Stock-style click, for comparison only"
        )

    def is_valid(self) -> bool:
        """Always served; its answer is only timed, so random weights do."""
        return True

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Load, orient, scale, crop."""
        return [
            LoadImaged(keys="image"),
            EnsureChannelFirstd(keys="image"),
            Orientationd(keys="image", axcodes="RAS"),
            ScaleIntensityRanged(keys="image", a_min=-1000, a_max=400, b_min=-1, b_max=1, clip=True),
            CropAtClickd(keys="image"),
        ]

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Paste back, restore the orientation."""
        return [PasteBackd(keys="pred"), ToNumpyd(keys="pred"), Restored(keys="pred", ref_image="image")]


class StockApp(MONAILabelApp):  # type: ignore[misc]  # monailabel's classes are untyped
    """One stock-style task and nothing else."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name="stock", description="For comparison only")

    def init_infers(self) -> dict[str, InferTask]:
        """The one task."""
        return {"nodule_click": StockClickTask()}


def write_stock_app(folder: Path) -> Path:
    """Make an app folder that MONAI Label can load; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(
        "import medai.server.stock_baseline as stock\n\nStockApp = stock.StockApp\n", encoding="utf-8"
    )
    return folder
