"""The real server behind logins and a TLS proxy, with MONAI Label's own client, as the hospital's page sets it up."""

from __future__ import annotations

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from tests.integration.server.conftest import HOSPITAL_STAFF, make_study
from tests.support.oidc_issuer import OidcIssuer
from tests.support.server_process import ServerProcess
from tests.support.tls_proxy import TlsProxy

from medai.store.audit_log import read_audit

PAGE = Path(__file__).parents[2] / "apps" / "medai" / "docs" / "hospital.md"
NAME = "medai.hospital.example"

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(TlsProxy.command() is None, reason="nginx is not installed (Debian: apt-get install nginx)"),
]


@dataclass
class Hospital:
    url: str
    certificate: Path
    study: Path
    realm: OidcIssuer

    def client(self, who: str, client_id: str = "user-xyz") -> MONAILabelClient:
        """A client that has logged in, as the Slicer module does it."""
        client = MONAILabelClient(self.url, client_id=client_id)
        assert client.auth_enabled()
        assert not client.auth_valid_token()
        client.update_auth(client.auth_token(who, HOSPITAL_STAFF[who].password))
        assert client.auth_valid_token()
        return client


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    study = make_study(folder / "study")
    with OidcIssuer(people=dict(HOSPITAL_STAFF)) as realm:
        environment = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": realm.url}
        conf = {"allowed_hosts": NAME, "share_paths": "false"}
        server = ServerProcess(study, conf=conf, environment=environment, probe="/auth/")
        with server:
            location = location_of_page().replace("http://127.0.0.1:8000", server.url).replace("$host", NAME)
            with TlsProxy(folder / "nginx", location) as proxy:
                yield Hospital(url=proxy.url, certificate=proxy.certificate, study=study, realm=realm)


def location_of_page() -> str:
    """The location block that the page shows."""
    blocks = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.search(r"^    location / \{.*?^    \}$|^location / \{.*?^\}$", blocks[0], flags=re.DOTALL | re.MULTILINE)
    assert found is not None, "the page shows a location"
    return found.group()


def test_the_stock_client_logs_in_and_works_through_the_proxy(hospital: Hospital, tmp_path: Path):
    anna = hospital.client("anna")
    assert "nodule_click" in anna.info()["models"]
    sample = anna.next_sample("first", {})
    assert "path" not in sample
    # What Slicer does next: its own downloader, which sends no login.
    context = ssl.create_default_context(cafile=str(hospital.certificate))
    scan_url = f"{hospital.url}/datastore/image?image={sample['id']}"
    with urllib.request.urlopen(scan_url, context=context, timeout=30) as reply:
        scan = reply.read()
    assert scan == next(hospital.study.glob(f"{sample['id']}.*")).read_bytes()
    label = tmp_path / "label.nii.gz"
    label.write_bytes(label_like(scan, tmp_path))
    anna.save_label(sample["id"], str(label), params={"label_info": [{"name": "nodule", "idx": 1}]})
    record = anna.datastore()["objects"][sample["id"]]["labels"]["final"]["info"]
    assert (record["user"], record["client_id"]) == ("anna", "anna")
    with pytest.raises(MONAILabelClientException) as refused:
        hospital.client("vera").save_label(sample["id"], str(label), params={})
    assert "monailabel-annotator" in refused.value.msg


def test_a_wrong_password_and_a_late_token_are_told_to_the_client(hospital: Hospital):
    client = MONAILabelClient(hospital.url)
    with pytest.raises(MONAILabelClientException) as refused:
        client.auth_token("anna", "wrong")
    assert refused.value.status_code == 401
    client.update_auth({"token_type": "Bearer", "access_token": hospital.realm.token("anna", exp=1_700_000_000)})
    assert not client.auth_valid_token()
    with pytest.raises(MONAILabelClientException):
        client.info()


def test_the_audit_log_has_the_annotators_address_not_the_proxys(hospital: Hospital):
    token = hospital.client("rita")._headers
    own = {**token, "X-Forwarded-For": "203.0.113.9"}
    requests.get(f"{hospital.url}/medai/status", headers=own, verify=str(hospital.certificate), timeout=30)
    lines = list(read_audit(hospital.study, user="rita"))
    # nginx replaces what a client claims by where it really comes from.
    assert {line["address"] for line in lines} == {"127.0.0.1"}


def test_who_verifies_the_certificate(hospital: Hospital, tmp_path: Path):
    """The client's JSON calls take any certificate; uploads to a session, and Slicer's download, take a known one."""
    client = hospital.client("anna")
    assert client.info()["name"] == "medai"
    scan = hospital.study / "case_oblique.nii.gz"
    with pytest.raises(requests.exceptions.SSLError):
        client.create_session(str(scan))
    with pytest.raises(urllib.error.URLError, match="certificate"):
        urllib.request.urlopen(f"{hospital.url}/auth/", timeout=30)


def label_like(scan: bytes, folder: Path) -> bytes:
    """A label of a few voxels on the scan's grid."""
    import numpy as np

    from medai.domain import LabelMap, Segment
    from medai.volume_io.readers import read_geometry
    from medai.volume_io.writers import write_label_map

    path = folder / "scan.nii.gz"
    path.write_bytes(scan)
    geometry = read_geometry(path)
    labels = np.zeros(geometry.shape_ijk, dtype=np.uint8)
    labels[6:10, 7:11, 9:12] = 1
    segment = Segment(value=1, name="nodule", colour_rgb=(200, 100, 50))
    made = folder / "made.nii.gz"
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(segment,)), made)
    return made.read_bytes()
