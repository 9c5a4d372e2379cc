"""One study of three small scans, and our ASGI app over it in process, with stand-ins for the networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.datastructures import State
from tests.support.fake_models import BoxClicks, FixedCandidates, FixedRatings, SwappableRegistry
from tests.support.oidc_issuer import OidcIssuer, Person

from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.server.app import MedaiApp
from medai.server.asgi import create_app
from medai.server.compat import configure_platform
from medai.server.launch import app_folder
from medai.server.model_shelf import ModelShelf
from medai.volume_io.writers import write_volume

SHAPE_IJK = (20, 22, 24)
SPACING_MM = (0.8, 0.9, 1.5)


def affines() -> dict[str, np.ndarray]:
    """One axial scan, one oblique, one flipped along j and k."""
    axial = np.diag([*SPACING_MM, 1.0])
    axial[:3, 3] = (-10.0, 20.0, -30.0)
    turn = np.deg2rad(20)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    flipped = axial.copy()
    flipped[:, 1] *= -1
    flipped[:, 2] *= -1
    return {"case.axial": axial, "case_oblique": rotation @ axial, "case_flipped": flipped}


def make_study(folder: Path) -> Path:
    """A study of three scans; voxels are -800 HU with a ball of 40 HU around (8, 9, 10)."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE_IJK], indexing="ij"), axis=-1)
    ball = np.linalg.norm((grid - np.array([8, 9, 10])) * SPACING_MM, axis=-1) < 3.5
    noise = np.random.default_rng(5).normal(0, 20, SHAPE_IJK)
    image_hu = (np.where(ball, 40, -800) + noise).astype(np.int16)
    for case_id, affine in affines().items():
        geometry = VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine)
        write_volume(Volume(geometry=geometry, image_hu=image_hu), folder / f"{case_id}.nii.gz")
    return folder


@dataclass
class Served:
    """The app over a study, and what stands in for its networks."""

    client: TestClient
    study: Path
    registry: SwappableRegistry
    clicks: BoxClicks
    candidates: FixedCandidates
    ratings: FixedRatings

    @property
    def app(self) -> MedaiApp:
        app: MedaiApp = self.state.medai
        return app

    @property
    def state(self) -> State:
        """What the server keeps beside the app; the test client knows its app as any callable."""
        return cast(FastAPI, self.client.app).state

    def click(self, case_id: str = "case.axial", **params: Any) -> Any:
        import json

        asked = {"label": "nodule", "foreground": [[8, 9, 10]], "background": [], "result_extension": ".nrrd"}
        params = asked | params
        return self.client.post(f"/infer/nodule_click?image={case_id}", data={"params": json.dumps(params)})


def serve(study: Path, conf: dict[str, str] | None = None) -> Iterator[Served]:
    """Run our ASGI app over a study in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MedaiApp, "warm_up", lambda _: None)
        configure_platform(
            app_dir=app_folder(study),
            studies=study,
            conf={"score_in_background": "off", **(conf or {})},
            session_path=study / ".medai" / "sessions",
        )
        with TestClient(create_app(), raise_server_exceptions=False) as client:
            registry, clicks, candidates, ratings = SwappableRegistry(), BoxClicks(), FixedCandidates(), FixedRatings()
            loaders = {
                "nodule_click": lambda _: clicks,
                "nodule_detection": lambda _: candidates,
                "nodule_classification": lambda _: ratings,
            }
            client.app.state.medai.shelf = ModelShelf(registry, loaders)  # type: ignore[attr-defined, arg-type]
            yield Served(
                client=client,
                study=study,
                registry=registry,
                clicks=clicks,
                candidates=candidates,
                ratings=ratings,
            )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A fresh study, served."""
    yield from serve(make_study(tmp_path / "study"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A study served for a whole module: for tests that change nothing."""
    yield from serve(make_study(tmp_path_factory.mktemp("shared") / "study"))


HOSPITAL_STAFF = {
    "vera": Person("pw-vera", ["monailabel-user"]),
    "anna": Person("pw-anna", ["monailabel-annotator"]),
    "ben": Person("pw-ben", ["monailabel-annotator", "offline_access"]),
    "rita": Person("pw-rita", ["monailabel-reviewer"]),
    "adam": Person("pw-adam", ["monailabel-admin"]),
    "guest": Person("pw-guest", []),
}


@pytest.fixture(scope="module")
def realm() -> Iterator[OidcIssuer]:
    with OidcIssuer(people=dict(HOSPITAL_STAFF)) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def hospital(realm: OidcIssuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A study behind logins."""
    from monailabel.config import settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "MONAI_LABEL_AUTH_ENABLE", True)
        patch.setattr(settings, "MONAI_LABEL_AUTH_REALM_URI", realm.url)
        patch.setattr(settings, "MONAI_LABEL_AUTH_TIMEOUT", 2)
        yield from serve(make_study(tmp_path_factory.mktemp("hospital") / "study"))
