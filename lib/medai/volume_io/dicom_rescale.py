"""Slope and intercept that turn stored values into Hounsfield units, or why they cannot be the right ones.

RescaleSlope and RescaleIntercept are required in a CT (PS3.3 C.8.2.1). Where they are missing, readers take 1 and 0,
and lung of 200 stored becomes soft tissue of 200 HU. A scan needs numbers from air to soft tissue, so values that
cannot even express those are no Hounsfield units either.
"""

from __future__ import annotations

from medai.volume_io.dicom_format import PixelFormat
from medai.volume_io.dicom_values import HeaderValues

AIR_HU = -900.0
"""Every CT must be able to write down air (−1000 HU) and lung (−850 HU); fewer than this is cut off."""

WATER_HU = 0.0
LARGEST_SLOPE = 20.0
"""8 bits for the 4096 values of an ordinary scanner make 16; a coarser scale shows no nodule."""

_SIGNED_SHIFT = 32768


def read_rescale(values: HeaderValues, pixels: PixelFormat | None) -> tuple[float, float, str]:
    """Slope, intercept, and why they give no Hounsfield units, or "".

    Args:
        values: the header of an image.
        pixels: how it is stored; None where that is not known, which is another problem.
    """
    # What is written and no number is noted by ``values`` with its tag.
    missing = [keyword for keyword in ("RescaleSlope", "RescaleIntercept") if not values.text(keyword)]
    slope, intercept = values.number("RescaleSlope"), values.number("RescaleIntercept")
    if missing:
        return (
            1.0,
            0.0,
            (
                f"no {' and no '.join(missing)}: its stored values cannot be turned into Hounsfield units. "
                "Export the series again from the scanner or the archive, without conversion"
            ),
        )
    if slope is None or intercept is None:
        return 1.0, 0.0, "a RescaleSlope or RescaleIntercept that is no number"
    return slope, intercept, _implausible(slope, intercept, pixels)


def _implausible(slope: float, intercept: float, pixels: PixelFormat | None) -> str:
    said = f"RescaleSlope {slope:g} and RescaleIntercept {intercept:g}"
    again = "Export the series again from the scanner or the archive, without conversion"
    if slope <= 0:
        return f"{said}: the slope of a CT is positive. {again}"
    if slope > LARGEST_SLOPE:
        return f"{said}: steps of {slope:g} HU are too coarse for a CT. {again}"
    if pixels is None:
        return ""
    lowest, highest = (stored * slope + intercept for stored in pixels.stored_range)
    if lowest <= AIR_HU and highest >= WATER_HU:
        return ""
    kind = "signed" if pixels.is_signed else "unsigned"
    reach = (
        f"{said}: with {kind} pixels of {pixels.bits_stored} bits that gives values from {lowest:g} to {highest:g}, "
        "but a CT in Hounsfield units reaches from air (−1000) to soft tissue"
    )
    if pixels.is_signed and intercept == _SIGNED_SHIFT:
        reach += (
            ". A converter has written unsigned numbers as signed ones and put the shift of 32768 where the scanner's "
            "intercept was, which is lost"
        )
    return f"{reach}. {again}"
