"""``avpref rewards``: validation of reward models on good and damaged clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter, validators

from avpref.cli.options import AsJson

app = App(name="rewards")

Clips = Annotated[Path, Parameter(help="folder of good recordings, or a CSV with columns file and text")]
Scorers = Annotated[str, Parameter(name="--scorers", help="scorers, separated by commas")]
Out = Annotated[Path, Parameter(name="--out", help="folder for validation.json, .csv, .parquet and .png")]
WindowS = Annotated[
    float, Parameter(name="--window-s", help="seconds of each clip", validator=validators.Number(gt=0, lte=60))
]
ValidationSeed = Annotated[int, Parameter(name="--seed", help="seed of the negatives and the intervals")]
NumNegatives = Annotated[
    int,
    Parameter(name="--negatives", help="negatives of each kind per clip", validator=validators.Number(gte=1)),
]
AudioTrack = Annotated[
    str,
    Parameter(
        name="--audio-track",
        help="audio track of the clips: number from 0, language or title",
        show_default="the default track",
    ),
]
DEFAULT_OUT = Path("validation")


@app.command
def validate(
    clips: Clips,
    *,
    scorers: Scorers = "signal",
    out: Out = DEFAULT_OUT,
    window_s: WindowS = 4.0,
    negatives: NumNegatives = 1,
    seed: ValidationSeed = 0,
    audio_track: AudioTrack = "",
    json: AsJson = False,
) -> int:
    """Score good clips, negatives made from them and delays of their sound; print how well each metric separates them.

    Negatives: mask or foreign object in the picture, picture shifted or stalled, foreign, deleted or swelling sound, sound shifted,
    interrupted, repeated or stretched, and the sound of another recording. Exit code 5: some recordings are unusable.
    """
    from avpref.cli.actions import validate_rewards

    request = validate_rewards.Request(clips, scorers, out, window_s, negatives, seed, audio_track)
    return validate_rewards.validate_scorers(request, json)
