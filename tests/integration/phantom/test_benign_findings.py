"""Benign findings: none unless asked for, in the lungs, away from nodules."""

import numpy as np
import pytest

from medai.phantom import NoduleSpec, PhantomConfig, make_phantom
from medai.phantom import chest_ct as chest_ct_module

GRID = {"shape_ijk": (96, 80, 110), "spacing_mm": (3.4, 3.4, 2.6), "detail": 0.1, "noise_hu": 0.0}
NODULES = (NoduleSpec(diameter_mm=14), NoduleSpec(diameter_mm=10))


@pytest.fixture(scope="module")
def pair():
    """The same chest without and with benign findings, and what was drawn."""
    drawn = []
    draw = chest_ct_module.draw_benign

    def keep(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chest_ct_module, "draw_benign", keep)
        with_them = make_phantom(
            PhantomConfig(**GRID, nodules=NODULES, contrast=False, benign_findings=True), np.random.default_rng(4)
        )
    assert len(drawn) == 1
    without = make_phantom(PhantomConfig(**GRID, nodules=NODULES, contrast=False), np.random.default_rng(4))
    return without, with_them, drawn[0]


def test_they_are_drawn_only_where_asked_for(pair, monkeypatch):
    monkeypatch.setattr(chest_ct_module, "draw_benign", lambda *a: pytest.fail("drawn unasked"))
    make_phantom(
        PhantomConfig(shape_ijk=(60, 55, 50), spacing_mm=(5.5, 5.6, 5.8), nodules=(), detail=0.1),
        np.random.default_rng(1),
    )


def test_bodies_lie_in_the_lungs_and_off_the_nodules(pair):
    without, with_them, findings = pair
    assert len(findings.bodies) >= 3
    lungs = with_them.lungs > 0
    for body in findings.bodies:
        assert body.fraction.shape == body.box.shape_ijk
        assert body.fraction.min() >= 0
        assert body.fraction.max() <= 1
    changed = np.abs(with_them.volume.image_hu.astype(int) - without.volume.image_hu) > 60
    assert np.mean(lungs[changed]) > 0.8
    for a, b in zip(without.nodules, with_them.nodules, strict=True):
        assert a.centre_ras_mm == b.centre_ras_mm
        np.testing.assert_array_equal(a.mask, b.mask)
        inside = without.volume.image_hu[a.box.slices][a.mask].astype(float)
        assert np.median(with_them.volume.image_hu[b.box.slices][b.mask]) == pytest.approx(np.median(inside), abs=60)


def test_they_can_be_seen(pair):
    without, with_them, findings = pair
    brighter = (with_them.volume.image_hu.astype(int) - without.volume.image_hu) > 150
    inside = brighter & (with_them.lungs > 0)
    assert inside.sum() > 50
    assert findings.fissure_hu >= 60
