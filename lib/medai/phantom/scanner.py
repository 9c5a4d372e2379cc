"""What a CT scanner does to the truth: blur within the slice, blur along z, and noise with the kernel's texture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from medai.phantom.config import Kernel
from medai.phantom.fields import Float

_SIGMA_MM = {Kernel.SOFT: 0.52, Kernel.STANDARD: 0.42, Kernel.SHARP: 0.28}
_EDGE_BOOST = {Kernel.SOFT: 0.0, Kernel.STANDARD: 0.08, Kernel.SHARP: 0.38}
USUAL_NOISE_HU = {Kernel.SOFT: 12.0, Kernel.STANDARD: 20.0, Kernel.SHARP: 52.0}
"""Standard deviation in the middle of a body at screening dose, 1 mm slices."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scanner:
    """In-plane transfer function and noise filter for one slice size.

    Attributes:
        shape_ji: of a slice.
        padded_ji: of the Fourier transform.
        transfer: what the kernel does to each spatial frequency.
        noise_filter: the same for white noise; leaves a standard deviation of 1.
    """

    shape_ji: tuple[int, int]
    padded_ji: tuple[int, int]
    transfer: Float
    noise_filter: Float

    @classmethod
    def make(cls, shape_ji: tuple[int, int], spacing_ji_mm: tuple[float, float], kernel: Kernel) -> Scanner:
        """Build the filters for slices of ``shape_ji`` voxels."""
        padded = (fft.next_fast_len(shape_ji[0] + 8, real=True), fft.next_fast_len(shape_ji[1] + 8, real=True))
        fj = np.fft.fftfreq(padded[0], spacing_ji_mm[0])[:, None]
        fi = np.fft.rfftfreq(padded[1], spacing_ji_mm[1])[None, :]
        frequency = np.hypot(fi, fj)
        transfer = np.exp(-2 * (np.pi * _SIGMA_MM[kernel] * frequency) ** 2)
        transfer *= 1 + _EDGE_BOOST[kernel] * (frequency / 0.35) ** 2 * np.exp(1 - (frequency / 0.35) ** 2)
        # Filtered back projection leaves noise power proportional to frequency times the transfer function squared.
        noise = np.sqrt(frequency + 0.012) * transfer
        weight = np.full(noise.shape, 2.0)
        weight[:, 0] = 1.0
        if padded[1] % 2 == 0:
            weight[:, -1] = 1.0
        noise /= np.sqrt(np.sum(weight * noise**2) / (padded[0] * padded[1]))
        return cls(
            shape_ji=shape_ji,
            padded_ji=padded,
            transfer=transfer.astype(np.float32),
            noise_filter=noise.astype(np.float32),
        )

    def blur(self, slice_hu: Float) -> Float:
        """The slice as the kernel shows it, without noise."""
        (nj, ni), (pj, pi) = self.shape_ji, self.padded_ji
        padded = np.pad(slice_hu, ((0, pj - nj), (0, pi - ni)), mode="edge")
        result: Float = fft.irfft2(fft.rfft2(padded) * self.transfer, s=self.padded_ji)[:nj, :ni]
        return result

    def texture(self, white: Float) -> Float:
        """Noise of unit standard deviation from white noise of the padded size."""
        (nj, ni) = self.shape_ji
        result: Float = fft.irfft2(fft.rfft2(white) * self.noise_filter, s=self.padded_ji)[:nj, :ni]
        return result

    def white(self, seed: int, k: int) -> Float:
        """White noise of slice ``k``: the same whoever asks for it and in whatever order."""
        generator = np.random.Generator(np.random.SFC64([seed, k + 1_000_000]))
        noise: Float = generator.standard_normal(self.padded_ji, dtype=np.float32)
        return noise


def slice_profile(thickness_mm: float, step_mm: float, per_slice: int) -> NDArray[np.float32]:
    """Weights of the thin sub-slices that add up to one slice.

    Args:
        thickness_mm: full width of the profile at half its height.
        step_mm: distance of sub-slices.
        per_slice: sub-slices from one slice to the next.

    Returns:
        Weights that sum to 1. Their count has the parity of ``per_slice``, so that they centre on the slice.
    """
    half = int(np.ceil(max(0.0, 0.9 * thickness_mm / step_mm - per_slice / 2)))
    count = per_slice + 2 * half
    offset_mm = (np.arange(count) - (count - 1) / 2) * step_mm
    edges = np.array([offset_mm - step_mm / 2, offset_mm + step_mm / 2])
    # A box as wide as the thickness with soft flanks, integrated over each sub-slice.
    flank = max(0.18 * thickness_mm, 1e-3)
    fine = np.linspace(edges[0], edges[1], 9)
    weight = (1 / (1 + np.exp((np.abs(fine) - thickness_mm / 2) / (flank / 2)))).mean(axis=0)
    result: Float = (weight / weight.sum()).astype(np.float32)
    return result
