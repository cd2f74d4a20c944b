"""Position and path of the toy world's ball: a matched filter per frame, then a ballistic fit over all frames.

The picture is averaged to ``CELLS`` cells in height. Positions are in picture heights, y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from avpref.media.toyscene import FLOOR_LEVEL, RADIUS

CELLS = 12
STEP = 3
"""Number of tried ball positions per cell along each axis; the best one is refined by a parabola."""
SUBSAMPLES = 8
COVERED = 0.02
"""Share of a cell above which the ball covers it."""
NUM_INSTANTS = 144
"""Number of tried times of the first impact."""
PATH_ERROR = 0.015
"""Least standard error of a position, in picture heights."""
OFFSET_ERROR = 0.03
"""Standard error of the floor's level in the toy world, in picture heights."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BallTrack:
    """The ball in each frame: ``x``, ``y`` [T] in picture heights, ``share`` [T] of its usual contrast (0: absent).

    ``colour`` [3] is the unit vector from the background's colour to the ball's; ``width`` is the picture's width in heights;
    ``signal`` and ``residual`` are the energies of the fitted ball and of all other changes.
    """

    x: Floats
    y: Floats
    share: Floats
    colour: Floats
    width: float
    signal: float
    residual: float


@dataclass(frozen=True)
class BallisticPath:
    """A fall from rest and its bounces. ``error`` is the root mean square distance to the track, in picture heights."""

    first_impact_s: float
    fall_s: float
    restitution: float
    error: float

    def impacts(self, duration_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times in seconds [I], and speeds [I] relative to the first, of the impacts before ``duration_s``; I is at least 1."""
        times, speeds = [self.first_impact_s], [1.0]
        while speeds[-1] * self.restitution > 0.1:
            speed = speeds[-1] * self.restitution
            time_s = times[-1] + 2 * speed * self.fall_s
            if time_s >= duration_s:
                break
            times.append(time_s)
            speeds.append(speed)
        return np.array(times), np.array(speeds)


def track_ball(frames: NDArray[np.uint8]) -> BallTrack:
    """Follow one ball of the toy world's size, of any colour, through frames uint8 [T, H, W, 3].

    Two passes with different backgrounds: the median of all frames, then the mean of the cells that the ball does not cover.
    """
    width = frames.shape[2] / frames.shape[1]
    columns = max(2, round(CELLS * width))
    cells = _averaged(frames, CELLS, columns).reshape(len(frames), CELLS * columns, 3)
    fit = _fit_ball(cells, np.median(cells, axis=0), columns)
    is_free = (fit.ball < COVERED).astype(np.float32)[..., None]
    num_free = is_free.sum(axis=0)
    free_mean = (is_free * cells).sum(axis=0) / np.maximum(num_free, 1)
    uncovered = np.where(num_free >= 2, free_mean, np.median(cells, axis=0))
    fit = _fit_ball(cells, uncovered, columns)
    share = np.clip(fit.amplitudes / max(fit.usual, 1e-6), 0.0, 1.0)
    x, y = np.asarray(fit.x / CELLS, np.float32), np.asarray(fit.y / CELLS, np.float32)
    return BallTrack(x, y, share, fit.colour, width, fit.signal, fit.residual)


@dataclass(frozen=True, eq=False)
class _BallFit:
    """Result of one pass: centres in cells [T], contrasts [T] and their usual value, the fitted ball [T, cells], energies."""

    x: Floats
    y: Floats
    amplitudes: Floats
    usual: float
    ball: Floats
    colour: Floats
    signal: float
    residual: float


def _fit_ball(cells: Floats, background: Floats, columns: int) -> _BallFit:
    difference = (cells - background).astype(np.float32)
    energy = np.square(difference).sum(axis=-1)
    colour = (difference * energy[..., None]).sum(axis=(0, 1))
    colour = colour / (np.linalg.norm(colour) + np.float32(1e-6))
    contrast = difference @ colour
    balls, norms = _balls(CELLS, columns)
    response = balls @ contrast.T
    gain = np.square(np.maximum(response, 0.0)) / norms[:, None]
    best = gain.argmax(axis=0)
    y, x = _refined(gain, best, columns)
    amplitudes = response[best, np.arange(len(cells))] / norms[best]
    usual = float((amplitudes * norms[best]).sum() / norms[best].sum())
    fitted = usual * balls[best]
    signal = float(np.square(fitted).sum())
    residual = float(np.square(contrast - fitted).sum() + energy.sum() - np.square(contrast).sum())
    return _BallFit(x, y, amplitudes, usual, balls[best], colour, signal, max(residual, 0.0))


def fit_path(track: BallTrack, fps_hz: float) -> BallisticPath:
    """The ballistic path of ``track``: the mean over a grid of falls, weighted by the likelihood of their squared errors.

    The mean makes the first impact a smooth function of the picture, with a resolution finer than a frame.
    """
    bank = _falls(len(track.y), fps_hz)
    height, weight = FLOOR_LEVEL - track.y.astype(np.float64), track.share.astype(np.float64) + 1e-3
    # weighted least squares of height = drop · fall + offset for every fall of the bank, offset held near 0
    ff, f1 = np.square(bank.heights) @ weight, bank.heights @ weight
    fy, y1, yy = bank.heights @ (weight * height), float(weight @ height), float(weight @ np.square(height))
    ones = weight.sum() + (PATH_ERROR / OFFSET_ERROR) ** 2
    offset = (y1 - f1 * fy / ff) / (ones - f1 * f1 / ff)
    drop = (fy - offset * f1) / ff
    squared = np.where(drop > 0, yy - drop * fy - offset * y1, np.inf)
    if not np.isfinite(squared.min()):
        return BallisticPath(*(np.nan,) * 4)  # nothing falls in this picture
    least = max(float(squared.min()), 0.0)
    variance = max(least / max(len(height) - 5, 1), PATH_ERROR**2)
    likely = np.exp(-(squared - squared.min()) / (2 * variance))
    likely /= likely.sum()
    impact_s, fall_s, restitution = (float(likely @ column) for column in bank.parameters)
    return BallisticPath(impact_s, fall_s, restitution, float(np.sqrt((least + _sideways(track)) / weight.sum())))


def _sideways(track: BallTrack) -> float:
    """Weighted squared distance of x to uniform motion."""
    weight = np.sqrt(track.share.astype(np.float64) + 1e-3)
    basis = np.stack([weight, weight * np.arange(len(weight))], axis=1)
    target = weight * track.x
    return float(np.square(target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]).sum())


@dataclass(frozen=True, eq=False)
class _Falls:
    """A grid of N falls: first impact, time of fall, restitution [3, N], and heights [N, T] with drop height 1."""

    parameters: NDArray[np.float64]
    heights: NDArray[np.float64]


@lru_cache(maxsize=4)
def _falls(num_frames: int, fps_hz: float) -> _Falls:
    times = np.arange(num_frames) / fps_hz
    duration_s = num_frames / fps_hz
    grid = np.meshgrid(
        np.linspace(0.2, duration_s - 0.02, NUM_INSTANTS),
        np.arange(0.35, 1.25, 0.06),
        np.arange(0.5, 0.9, 0.07),
        indexing="ij",
    )
    impact, fall, restitution = (axis.ravel() for axis in grid)
    is_possible = impact - fall > -0.1
    impact, fall, restitution = impact[is_possible], fall[is_possible], restitution[is_possible]
    before = np.clip((times - impact[:, None] + fall[:, None]) / fall[:, None], 0.0, 1.0)
    heights = np.where(times < impact[:, None], 1.0 - np.square(before), 0.0)
    start, speed = impact.copy(), np.ones_like(impact)
    while (start < duration_s).any() and speed.max() > 0.05:
        speed = speed * restitution
        since = (times - start[:, None]) / fall[:, None]
        flight = 2 * speed[:, None]
        heights = np.where((since >= 0) & (since < flight), since * (flight - since), heights)
        start = start + 2 * speed * fall
    return _Falls(np.stack([impact, fall, restitution]), heights)


def _averaged(frames: NDArray[np.uint8], rows: int, columns: int) -> Floats:
    """Area averages [T, rows, columns, 3] of frames [T, H, W, 3]."""
    num_frames, height, width, _ = frames.shape
    tall = _area(rows, height) @ frames.astype(np.float32).reshape(num_frames, height, width * 3)
    return (_area(columns, width) @ tall.reshape(num_frames * rows, width, 3)).reshape(num_frames, rows, columns, 3)


@lru_cache(maxsize=8)
def _area(num_out: int, num_in: int) -> Floats:
    """Weights [out, in] of each input pixel in each output cell."""
    edges = np.arange(num_out + 1) * num_in / num_out
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(num_in)
    overlap = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0.0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=4)
def _balls(rows: int, columns: int) -> tuple[Floats, Floats]:
    """Discs averaged to cells [P, rows · columns] at every tried centre, row by row, and their energies [P]."""
    across = _disc_profiles(columns)
    down = _disc_profiles(rows)
    squared = np.square(down)[:, None, :, None] + np.square(across)[None, :, None, :]
    inside = np.clip((RADIUS * CELLS - np.sqrt(squared)) * SUBSAMPLES + 0.5, 0.0, 1.0)
    shape = (len(down), len(across), rows, SUBSAMPLES, columns, SUBSAMPLES)
    balls = inside.reshape(shape).mean(axis=(3, 5)).reshape(-1, rows * columns).astype(np.float32)
    return balls, np.square(balls).sum(axis=1)


def _disc_profiles(cells: int) -> Floats:
    """Distance [P, cells · SUBSAMPLES] of each subsample from each tried centre, along one axis."""
    centres = np.arange(cells * STEP + 1) / STEP
    samples = (np.arange(cells * SUBSAMPLES) + 0.5) / SUBSAMPLES
    return (samples - centres[:, None]).astype(np.float32)


def _refined(gain: Floats, best: NDArray[np.int64], columns: int) -> tuple[Floats, Floats]:
    """Centres (y, x) [T] in cells: the best of the tried ones, moved to the vertex of the parabola through its neighbours."""
    num_across = columns * STEP + 1
    surface = gain.reshape(-1, num_across, gain.shape[1])
    rows, cols = best // num_across, best % num_across
    frames = np.arange(gain.shape[1])
    y = rows + _vertex(*(surface[np.clip(rows + step, 0, len(surface) - 1), cols, frames] for step in (-1, 0, 1)))
    x = cols + _vertex(*(surface[rows, np.clip(cols + step, 0, num_across - 1), frames] for step in (-1, 0, 1)))
    return np.asarray(y / STEP, np.float32), np.asarray(x / STEP, np.float32)


def _vertex(before: Floats, middle: Floats, after: Floats) -> Floats:
    curvature = before - 2 * middle + after
    return np.where(curvature < 0, 0.5 * (before - after) / np.minimum(curvature, -1e-12), 0.0).clip(-0.5, 0.5)
