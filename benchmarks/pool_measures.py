"""Precision and recall of a pool's measures on clips of known truth: real recordings and patterns, each changed in one way.

    python benchmarks/pool_measures.py [--media FOLDER] [--bases N] [--seed S] [--learned NAME ...]

Bases are windows of the real clips of a folder (default: AVPREF_MEDIA or ../shared/media) and moving patterns. Each base is encoded once
as it is and once per change. A measure's truth is whether the clip has the change that it is for; clips of a base that already has
the property are left out for that measure. Speech is made by espeak-ng where that is installed. Learned measures join where installed;
faces are a photograph of scikit-image, pasted at random sizes and places, where that package is installed.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, resample_poly, sosfilt

from avpref.config.learned_names import is_installed
from avpref.media.reading import probe, read_clip
from avpref.media.reading_rules import DEFAULT_READING
from avpref.media.writing import encode_clip
from avpref.pool.cut.scene_cuts import Changes, cuts_of
from avpref.pool.pool_folder import arrow_rows, create_pool
from avpref.pool.pool_stages import STAGES, configured, owned, run_stages, scan
from avpref.pool.scan.source_profile import profile

ROOT = Path(__file__).parents[1]
RATE_HZ, FPS_HZ, LENGTH_S = 16_000, 25.0, 4.0
Frames, Sound = NDArray[np.uint8], NDArray[np.float32]


@dataclass
class Clip:
    """A clip of the trial: its base, the change, and what it is known to have."""

    name: str
    frames: Frames
    sound: Sound
    truth: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Measure:
    """A property, the measure that detects it, and the values that mean that it is there."""

    truth: str
    measure: str
    is_there: Callable[[float], bool]
    shown: str


MEASURES = (
    Measure("black", "black_share", lambda value: value > 0.1, "> 0.1"),
    Measure("static", "static_share", lambda value: value > 0.9, "> 0.9"),
    Measure("still", "flow_px", lambda value: value < 0.25, "< 0.25"),
    Measure("static", "codec_motion", lambda value: value < 0.005, "< 0.005"),
    Measure("letterbox", "letterbox_share", lambda value: value > 0.1, "> 0.1"),
    Measure("watermark", "watermark_share", lambda value: value > 0.002, "> 0.002"),
    Measure("text", "text_regions", lambda value: value >= 1, ">= 1"),
    Measure("silent", "silent_share", lambda value: value > 0.5, "> 0.5"),
    Measure("clipped", "clipped_share", lambda value: value > 0.01, "> 0.01"),
    Measure("narrow", "bandwidth_hz", lambda value: value < 4000, "< 4000"),  # of the filter below: -60 dB at 3,990 Hz
    Measure("quiet", "loudness_lufs", lambda value: value < -50, "< -50"),
    Measure("speech", "speech_share", lambda value: value > 0.25, "> 0.25"),
    Measure("face", "num_faces", lambda value: value >= 1, ">= 1"),
    Measure("shifted", "sync_error_s", lambda value: value > 0.2, "> 0.2"),
)


def pattern(seed: int) -> Clip:
    """A coloured pattern that moves in bursts, each with a note, so that sound and motion agree."""
    random = np.random.default_rng(seed)
    grids = [random.integers(10, 246, (5, 9, 3)), random.integers(10, 246, (30, 54, 3))]
    wide = sum(
        share * cv2.resize(grid.astype(np.float32), (960, 540)) for grid, share in zip(grids, (0.6, 0.4), strict=True)
    )
    number = round(LENGTH_S * FPS_HZ)
    starts = np.sort(random.choice(np.arange(4, number - 8, 8), 6, replace=False))
    speed = np.full(number, 0.4)
    sound = random.normal(0, 0.004, round(LENGTH_S * RATE_HZ)).astype(np.float32)
    for start in starts:
        speed[start : start + 4] = 7.0
        first = round(start / FPS_HZ * RATE_HZ)
        times_s = np.arange(min(4000, len(sound) - first)) / RATE_HZ
        sound[first : first + len(times_s)] += (
            0.5 * np.sin(2 * np.pi * random.uniform(300, 5000) * times_s) * np.exp(-12 * times_s)
        )
        sound[first : first + len(times_s)] += random.normal(0, 0.15, len(times_s)) * np.exp(-30 * times_s)
    places = np.cumsum(speed) % 450
    frames = np.stack([wide[40:310, int(x) : int(x) + 480] for x in places]).astype(np.uint8)
    return Clip(f"pattern-{seed}", frames, sound)


def real_bases(media: Path, seed: int, number: int) -> list[Clip]:
    """Windows of the real clips, at 25 frames a second and a height of at most 270 pixels, and what they are known to have."""
    known = {"telescope": frozenset({"speech", "face-unknown"}), "tennis": frozenset({"face-unknown"})}
    windows = []
    for path in sorted(media.glob("*.mp4")):
        info = probe(path)
        length_s = min(info.duration_s, info.audio.duration_s if info.audio else 0.0)
        windows += [(path, start_s) for start_s in np.arange(0.0, length_s - LENGTH_S, LENGTH_S)]
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(windows))[:number]
    clips = []
    for index in sorted(chosen):
        path, start_s = windows[index]
        decoded = read_clip(path, start_s=float(start_s), duration_s=LENGTH_S)
        assert decoded.frames is not None and decoded.audio is not None
        wanted = np.arange(round(LENGTH_S * FPS_HZ)) / FPS_HZ * decoded.fps_hz
        frames = decoded.frames[np.minimum(wanted.astype(int), len(decoded.frames) - 1)]
        scale = min(1.0, 270 / frames.shape[1])
        size = round(frames.shape[2] * scale / 2) * 2, round(frames.shape[1] * scale / 2) * 2
        small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
        sound = resample_poly(decoded.audio, RATE_HZ, decoded.sample_rate_hz).astype(np.float32)
        clips.append(Clip(f"{path.stem}-{start_s:g}", small, sound, known.get(path.stem, frozenset())))
    return clips


def speech(seed: int) -> Sound | None:
    """Speech of about four seconds by espeak-ng; None where it is not installed."""
    program = shutil.which("espeak-ng")
    if program is None:
        return None
    sentences = [
        "The train to the coast leaves at nine",
        "Put the blue cup on the table, please",
        "Nobody expected rain that day",
    ]
    words = f"{sentences[seed % 3]}. {sentences[(seed + 1) % 3]}."
    made = subprocess.run([program, "--stdout", "-s", str(140 + seed % 5 * 10), words], capture_output=True, check=True)
    with wave.open(io.BytesIO(made.stdout)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        rate_hz = file.getframerate()
    return resample_poly(samples, RATE_HZ, rate_hz).astype(np.float32)


def portrait(face_px: float, limit: tuple[int, ...]) -> Frames | None:
    """A photograph of a head whose face is ``face_px`` pixels high, smaller than ``limit``; None without scikit-image."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        return None
    picture = cv2.imread(str(Path(spec.submodule_search_locations[0]) / "data" / "astronaut.png"))
    assert picture is not None
    head = picture[20:215, 140:310, ::-1]
    scale = min(face_px / 120, 0.9 * limit[0] / head.shape[0], 0.9 * limit[1] / head.shape[1])
    size = max(1, round(head.shape[1] * scale)), max(1, round(head.shape[0] * scale))
    return cv2.resize(np.ascontiguousarray(head), size, interpolation=cv2.INTER_AREA)


def variants(base: Clip, seed: int) -> list[Clip]:
    """The base as it is, and changed in one way each."""
    random = np.random.default_rng(seed)
    height, width = base.frames.shape[1:3]
    number = len(base.frames)

    def changed(name: str, truth: Sequence[str], frames: Frames | None = None, sound: Sound | None = None) -> Clip:
        new_frames = base.frames if frames is None else frames
        new_sound = base.sound if sound is None else sound
        return Clip(f"{base.name}-{name}", new_frames, new_sound, base.truth | frozenset(truth))

    black = base.frames.copy()
    black[: round(number * random.uniform(0.2, 0.5))] = 0
    barred = base.frames.copy()
    bar = round(height * random.uniform(0.08, 0.16))
    barred[:, :bar] = barred[:, height - bar :] = 0
    texts, marked = base.frames.copy(), base.frames.copy()
    place = int(random.uniform(0.05, 0.25) * width), int(random.uniform(0.4, 0.8) * height)
    words = str(random.choice(["SUBSCRIBE NOW", "BREAKING NEWS", "50% OFF TODAY"]))
    corner = width - 90, 12 + int(random.integers(0, 8))
    logo = np.zeros((height, width, 3), np.uint8)
    cv2.circle(logo, (corner[0] + 20, corner[1] + 14), 12, (255, 255, 255), 3)
    cv2.rectangle(logo, (corner[0] + 40, corner[1] + 2), (corner[0] + 74, corner[1] + 26), (255, 255, 255), 3)
    for index in range(number):
        cv2.putText(texts[index], words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.9 * height / 270, (255, 255, 255), 2)
        marked[index] = cv2.addWeighted(marked[index], 1.0, logo, 0.6, 0)
    shift = int(random.uniform(0.3, 0.5) * RATE_HZ)
    low = sosfilt(butter(10, 2000, fs=RATE_HZ, output="sos"), base.sound).astype(np.float32)
    level = max(1e-3, float(np.sqrt(np.mean(base.sound**2))))
    clips = [
        changed("as-it-is", ()),
        changed("black", ("black",), black),
        changed("static", ("static", "still", "shifted-unknown"), base.frames[:1].repeat(number, 0)),
        changed("letterbox", ("letterbox",), barred),
        changed("text", ("text", "watermark-unknown"), texts),
        changed("watermark", ("watermark", "text-unknown"), marked),
        changed("silent", ("silent", "quiet-unknown", "shifted-unknown"), sound=np.zeros_like(base.sound)),
        changed("quiet", ("quiet", "silent-unknown"), sound=(base.sound * 0.001 / level).astype(np.float32)),
        changed("clipped", ("clipped",), sound=np.clip(base.sound * 1.2 / level, -1.0, 1.0).astype(np.float32)),
        changed("narrow", ("narrow",), sound=low),
        changed("shifted", ("shifted",), sound=np.roll(base.sound, shift)),
    ]
    photograph = portrait(random.uniform(16, 60), base.frames.shape[1:3])
    if photograph is not None:
        rows, columns = photograph.shape[:2]
        top, left = (int(random.integers(0, size)) for size in (height - rows, width - columns))
        pasted = base.frames.copy()
        pasted[:, top : top + rows, left : left + columns] = photograph
        clips.append(changed("face", ("face", "watermark-unknown", "text-unknown"), pasted))
    voice = speech(seed)
    if voice is not None:
        mixed = base.sound.copy()
        length = min(len(mixed), len(voice))
        mixed[:length] = np.clip(0.2 * mixed[:length] / max(1.0, level / 0.1) + 0.8 * voice[:length], -1, 1)
        clips.append(changed("speech", ("speech", "shifted-unknown"), sound=mixed))
    return clips


def measured(clips: Sequence[Clip], learned: Sequence[str], folder: Path) -> dict[str, dict[str, float | None]]:
    """Values of all measures by the clips' names, by the stages of a pool."""
    (folder / "in").mkdir()
    for clip in clips:
        (folder / "in" / f"{clip.name}.mp4").write_bytes(encode_clip(clip.frames, FPS_HZ, clip.sound, RATE_HZ))
    sets = ["executor={kind: in_process}", "scan.duplicates=keep", "cut.detector=none"]
    sets.append(f"measure.optional=[{', '.join(learned)}]")
    config = configured(str(ROOT / "configs" / "pool.yaml"), [str(folder / "in")], sets)
    pool = create_pool(folder / "pools", config)
    with owned(pool):
        run_stages(pool, STAGES[:3])
    with pool.connect() as con:
        names = {row["clip_id"]: Path(row["uri"]).stem for row in arrow_rows(con, "clip_places").to_pylist()}
        rows = con.execute("SELECT clip_id, measure, value FROM measures WHERE len(vector) = 0").fetchall()
    values: dict[str, dict[str, float | None]] = {}
    for clip_id, measure, value in rows:
        values.setdefault(names[clip_id], {})[measure] = value
    return values


def judge(
    clips: Sequence[Clip], real: Sequence[str], values: dict[str, dict[str, float | None]]
) -> list[tuple[object, ...]]:
    """A row per measure: clips with and without the property, precision, recall, clips without a value, and real windows that are
    flagged as they are: whether those have the property is not known, so that their unchanged variants count neither way."""
    rows = []
    for entry in MEASURES:
        hits = misses = false = right = without = 0
        flagged = [
            name for name in real if entry.is_there(values.get(f"{name}-as-it-is", {}).get(entry.measure) or math.nan)
        ]
        for clip in clips:
            is_of_flagged = any(clip.name.startswith(f"{name}-") for name in flagged)
            if f"{entry.truth}-unknown" in clip.truth or (is_of_flagged and entry.truth not in clip.truth):
                continue
            value = values.get(clip.name, {}).get(entry.measure)
            has_it = entry.truth in clip.truth
            is_found = value is not None and entry.is_there(value)
            without += value is None
            hits += has_it and is_found
            misses += has_it and not is_found
            false += not has_it and is_found
            right += not has_it and not is_found
        precision = hits / (hits + false) if hits + false else float("nan")
        recall = hits / (hits + misses) if hits + misses else float("nan")
        counts = hits + misses, false + right, precision, recall, without
        rows.append((entry.truth, entry.measure, entry.shown, *counts, ", ".join(flagged)))
    return rows


def cut_rows(seed: int, number: int, bases: Sequence[Clip], folder: Path) -> list[tuple[object, ...]]:
    """Precision and recall of cuts within one frame, per detector, on ``number`` sequences of scenes of random lengths."""
    random = np.random.default_rng(seed)
    totals = {name: np.zeros(3, int) for name in ("adaptive", "content", "histogram")}
    thresholds = {"adaptive": 3.0, "content": 27.0, "histogram": 0.2}
    packaged = {name: np.zeros(3, int) for name in totals} if has_scenedetect() else {}
    for index in range(number):
        chosen = random.choice(len(bases), 5, replace=len(bases) < 5)
        lengths = random.integers(25, 90, 5)
        parts = [cv_resized(bases[base].frames[:length]) for base, length in zip(chosen, lengths, strict=True)]
        frames = np.concatenate(parts)
        truth = np.cumsum([len(part) for part in parts])[:-1]
        path = folder / f"cuts-{index}.mp4"
        sound = np.zeros(round(len(frames) / FPS_HZ * RATE_HZ), np.float32)
        path.write_bytes(encode_clip(frames, FPS_HZ, sound + 1e-3, RATE_HZ))
        profiled = profile(path, DEFAULT_READING)
        names = ("hue", "saturation", "luma", "matches")
        changes = Changes(*(np.array(getattr(profiled.changes, name)) for name in names))
        for name, total in totals.items():
            total += counted(truth, cuts_of(name, changes, thresholds[name], 15))
        for name, total in packaged.items():
            total += counted(truth, scenedetect_cuts(path, name))
    rows = [("cuts within one frame", f"{name}", "", *scores(total)) for name, total in totals.items()]
    return rows + [
        ("cuts within one frame", f"{name}, PySceneDetect", "", *scores(total)) for name, total in packaged.items()
    ]


def cv_resized(frames: Frames) -> Frames:
    return np.stack([cv2.resize(frame, (320, 180), interpolation=cv2.INTER_AREA) for frame in frames])


def counted(truth: NDArray[np.int_], cuts: Sequence[int]) -> NDArray[np.int_]:
    """Hits within one frame, cuts that are none, cuts that were missed."""
    hits = sum(any(abs(cut - place) <= 1 for cut in cuts) for place in truth)
    false = sum(all(abs(cut - place) > 1 for place in truth) for cut in cuts)
    return np.array([hits, false, len(truth) - hits])


def scores(total: NDArray[np.int_]) -> tuple[object, ...]:
    hits, false, misses = total.tolist()
    return hits + misses, false, hits / max(1, hits + false), hits / max(1, hits + misses), 0


def has_scenedetect() -> bool:
    try:
        import scenedetect  # noqa: F401
    except ImportError:
        return False
    return True


def scenedetect_cuts(path: Path, name: str) -> list[int]:
    """Cuts by the package itself, with its defaults."""
    from scenedetect import AdaptiveDetector, ContentDetector, HistogramDetector, detect

    detectors = {"adaptive": AdaptiveDetector, "content": ContentDetector, "histogram": HistogramDetector}
    scenes = detect(str(path), detectors[name](min_scene_len=15))
    return [start.frame_num for start, _ in scenes[1:]]


def duplicate_row(bases: Sequence[Clip], seed: int, folder: Path) -> tuple[object, ...]:
    """Precision and recall of duplicates: each base once as it is and once re-encoded in size, rate, codec and quality."""
    source = folder / "copies"
    source.mkdir()
    random = np.random.default_rng(seed)
    for base in bases:
        (source / f"{base.name}@a.mp4").write_bytes(encode_clip(base.frames, FPS_HZ, base.sound, RATE_HZ))
        scale = random.uniform(0.5, 0.9)
        size = round(base.frames.shape[2] * scale / 2) * 2, round(base.frames.shape[1] * scale / 2) * 2
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in base.frames])
        reencode(source / f"{base.name}@b.mkv", frames[::2], base.sound * 0.7, int(random.integers(28, 36)))
    config = configured(str(ROOT / "configs" / "pool.yaml"), [str(source)], ["executor={kind: in_process}"])
    pool = create_pool(folder / "duplicates", config)
    with owned(pool):
        run_stages(pool, [scan])
    with pool.connect() as con:
        pairs = [
            (Path(row["uri"]).stem, Path(row["same_as"]).stem) for row in arrow_rows(con, "duplicates").to_pylist()
        ]
    hits = sum(first.split("@")[0] == second.split("@")[0] for first, second in pairs)
    false = len(pairs) - hits
    return "re-encoded copy", "picture hashes, sound prints", "", *scores(np.array([hits, false, len(bases) - hits]))


def reencode(path: Path, frames: Frames, sound: Sound, crf: int) -> None:
    """H.264 of low quality at half the rate with Opus, in Matroska."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=round(FPS_HZ / 2 * 2) // 2 or 1, options={"crf": str(crf)})
        picture.width, picture.height, picture.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        track = container.add_stream("libopus", rate=48_000, layout="mono")
        track.bit_rate = 32_000
        picture.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round(index * 2000 / FPS_HZ), Fraction(1, 1000)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        samples = resample_poly(sound, 3, 1).astype(np.float32)
        part = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        part.sample_rate, part.pts, part.time_base = 48_000, 0, Fraction(1, 48_000)
        container.mux([*track.encode(part), *track.encode(None)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--media", type=Path, default=Path(os.environ.get("AVPREF_MEDIA", ROOT.parent / "shared" / "media"))
    )
    parser.add_argument("--bases", type=int, default=8, help="real windows and, as many, patterns")
    parser.add_argument("--sequences", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learned", nargs="*", default=["speech", "sound_classes", "screen_text", "faces"])
    arguments = parser.parse_args()
    bases = real_bases(arguments.media, arguments.seed, arguments.bases) if arguments.media.is_dir() else []
    real = [base.name for base in bases]
    bases += [pattern(arguments.seed * 100 + number) for number in range(arguments.bases)]
    learned = [name for name in arguments.learned if is_installed(name)]
    names = ", ".join(learned) or "none"
    print("# Measures of a pool: precision and recall\n")
    print(f"{len(bases)} bases, learned measures: {names}, espeak-ng: {shutil.which('espeak-ng') is not None}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [clip for number, base in enumerate(bases) for clip in variants(base, arguments.seed * 1000 + number)]
        rows = judge(clips, real, measured(clips, learned, folder))
        rows += cut_rows(arguments.seed, arguments.sequences, bases, folder)
        rows.append(duplicate_row(bases, arguments.seed, folder))
    print(
        print(
            "| property | measure | there if | with it | without it, or false | precision | recall | no value "
            "| real windows flagged as they are |"
        )
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for truth, measure, shown, with_it, without_it, precision, recall, no_value, *flagged in rows:
        print(
            f"| {truth} | {measure} | {shown} | {with_it} | {without_it} | {precision:.2f} | {recall:.2f} | {no_value} |"
            f" {''.join(flagged)} |"
        )


if __name__ == "__main__":
    main()
