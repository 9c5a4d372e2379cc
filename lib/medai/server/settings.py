"""Every setting of the app, from ``--conf key value`` strings to one checked object.

The strings are read once, when the app is built; nothing behind this module sees a ``conf`` dict. The object travels to
training processes as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medai.errors import InputError
from medai.volume_io.options import ReadBudget
from medai.workflows.run_tracking import check_tracking

_LARGEST_VOXEL_BYTES = 4
"""Scans are int16, some float32."""

PLATFORM_KEYS = frozenset({"server_mode"})
"""Keys that MONAI Label itself puts into ``conf``."""


class ServerSettings(BaseModel):
    """What ``--conf`` takes; the descriptions are what an unknown key is answered with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="where networks run: auto takes CUDA where there is one")
    ] = "auto"
    click_workers: Annotated[int, Field(ge=1, le=16, description="clicks answered at the same time")] = 2
    scan_workers: Annotated[int, Field(ge=1, le=8, description="whole scans worked on at the same time")] = 1
    cache_memory_mb: Annotated[
        int, Field(ge=64, le=1_000_000, description="decoded scans kept in memory, MB; the scan in use always is")
    ] = 512
    cache_disk_mb: Annotated[int, Field(ge=0, le=10_000_000, description="decoded scans kept on disk, MB")] = 8192
    prefetch: Annotated[bool, Field(description="decode the next case while the annotator works")] = True
    reservation_minutes: Annotated[
        float, Field(gt=0, le=7 * 24 * 60, description="how long a case handed out is kept from other annotators")
    ] = 60.0
    share_paths: Annotated[
        bool,
        Field(description="tell clients the scan's path: Slicer opens it where it exists on its machine"),
    ] = True
    score_in_background: Annotated[
        bool, Field(description="score new cases, and all after a new model, while nobody waits for an inference")
    ] = True
    batch_executor: Annotated[
        Literal["inprocess", "ray"],
        Field(description="who predicts the whole scans of a batch: this server, or Ray (pip install 'medai[ray]')"),
    ] = "inprocess"
    ray_address: Annotated[
        str,
        Field(description="Ray cluster that sees the study's folder: auto or HOST:PORT; empty: one here"),
    ] = ""
    train_epochs: Annotated[int, Field(ge=1, le=10_000, description="passes over the labels of one training")] = 20
    train_after: Annotated[
        int,
        Field(ge=0, le=100_000, description="submitted labels after which outlines are learned by itself; 0: by hand"),
    ] = 0
    train_every_minutes: Annotated[
        float,
        Field(ge=0, le=7 * 24 * 60, description="minutes after which new labels are learned by itself; 0: by hand"),
    ] = 0.0
    train_processes: Annotated[
        int, Field(ge=1, le=64, description="processes that train the click network together, one a GPU with CUDA")
    ] = 1
    seed: Annotated[int, Field(ge=0, description="seed of training and of the strategy 'random'")] = 1
    keep_models: Annotated[
        int,
        Field(ge=2, le=10_000, description="model versions kept on disk a task; the champion's predecessor always is"),
    ] = 5
    keep_models_mb: Annotated[
        int, Field(ge=0, le=10_000_000, description="megabytes they may take together a task, MB; 0: no limit")
    ] = 0
    tracking: Annotated[
        str,
        Field(description="MLflow: local (in the study; MLFLOW_TRACKING_URI is honoured), off, or a server's address"),
    ] = "local"
    audit: Annotated[
        Literal["on", "off", "required"],
        Field(description="log of who read and wrote what; required: refuse requests while it cannot be written"),
    ] = "on"
    audit_mb: Annotated[int, Field(ge=1, le=10_000, description="size of one file of the audit log, MB")] = 20
    audit_files: Annotated[int, Field(ge=1, le=10_000, description="full files of the audit log kept")] = 20
    auth_audience: Annotated[
        str,
        Field(
            description="what a token's 'aud' must hold where the realm names this API; empty: issued for our client"
        ),
    ] = ""
    auth_issuer: Annotated[
        str, Field(description="what the realm calls itself ('iss') where it is reached by another address")
    ] = ""
    auth_scope: Annotated[str, Field(description="scope asked for at login, such as openid")] = ""
    auth_secret_file: Annotated[
        str, Field(description="file with the client's secret, where the realm wants one to give tokens")
    ] = ""
    slicer_downloads: Annotated[
        bool,
        Field(description="let Slicer, which sends no login with it, download the scan Next Sample gave to its login"),
    ] = True
    max_upload_mb: Annotated[int, Field(ge=1, le=100_000, description="largest uploaded file, MB")] = 2048
    max_scan_mvoxels: Annotated[
        int, Field(ge=1, le=100_000, description="largest scan or label that is decoded, million voxels")
    ] = 1100
    max_uploads: Annotated[int, Field(ge=1, le=10_000, description="uploads under way at the same time")] = 64
    max_sessions: Annotated[
        int, Field(ge=0, le=10_000, description="scans uploaded for a while (/session/) at the same time")
    ] = 32
    max_sessions_mb: Annotated[int, Field(ge=1, le=10_000_000, description="what they take together on disk, MB")] = (
        8192
    )
    request_timeout_s: Annotated[
        float, Field(ge=1, le=3600, description="seconds after which a request that stops arriving is ended")
    ] = 60.0
    allowed_hosts: Annotated[
        str,
        Field(
            description="names the server answers to, with commas between, *.NAME for all below; empty: localhost "
            "where it listens on loopback, any where it does not"
        ),
    ] = ""
    allowed_origins: Annotated[
        str,
        Field(description="web pages (https://NAME) that may change something, with commas between; * for all"),
    ] = ""

    @field_validator("tracking")
    @classmethod
    def _known_tracking(cls, value: str) -> str:
        try:
            return check_tracking(value)
        except InputError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def from_conf(cls, conf: Mapping[str, str] | None) -> ServerSettings:
        """Check ``--conf`` values.

        Args:
            conf: key to value, both as typed.

        Raises:
            InputError: unknown keys or values out of range; the message lists every problem and what is valid.
        """
        given = {key: value for key, value in (conf or {}).items() if key not in PLATFORM_KEYS}
        unknown = sorted(set(given) - set(cls.model_fields))
        if unknown:
            raise InputError(
                f"--conf has no {', '.join(repr(key) for key in unknown)}. It takes:\n{cls.describe_keys()}"
            )
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc'])} = {problem['input']!r}: {problem['msg']}"
                for problem in error.errors()
            )
            raise InputError(f"--conf cannot be used: {problems}.") from error

    @property
    def read_budget(self) -> ReadBudget:
        """The largest image that is decoded for anybody, asked of its header."""
        voxels = self.max_scan_mvoxels * 1_000_000
        return ReadBudget(
            largest_voxels=voxels,
            largest_bytes=voxels * _LARGEST_VOXEL_BYTES,
            advice="Crop or resample it to fewer voxels; --conf max_scan_mvoxels sets the limit",
        )

    @classmethod
    def describe_keys(cls) -> str:
        """One line a key: name, default, meaning."""
        return "\n".join(
            f"  {name} (default {field.default}): {field.description}" for name, field in cls.model_fields.items()
        )
