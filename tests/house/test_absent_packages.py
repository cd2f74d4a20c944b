"""Packages that break beside a CPU build of torch are neither imported nor installed by anything of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BROKEN = ("torchaudio", "torchvision", "torchcodec", "timm", "pytorchvideo", "einops")

IMPORT_ALL = """
import importlib, sys
from pathlib import Path
rooms = ("models", "rewards", "trainer", "datasets", "flows")
for room in rooms:
    for path in sorted(Path(room).rglob("*.py")):
        importlib.import_module("avpref." + ".".join(path.with_suffix("").parts))
from avpref.rewards.audiobox.audiobox import tiny_audiobox
from avpref.rewards.imagebind.imagebind import tiny_imagebind
from avpref.rewards.synchformer.synchformer import tiny_synchformer
from avpref.rewards.videoalign.videoalign import tiny_videoalign
for build in (tiny_audiobox, tiny_imagebind, tiny_synchformer, tiny_videoalign):
    build()
print(sorted(name for name in {names} if name in sys.modules))
"""


def test_importing_everything_and_building_the_reward_models_imports_none_of_them() -> None:
    code = IMPORT_ALL.replace("{names}", repr(BROKEN))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip().splitlines()[-1] == "[]"


def test_the_lock_and_the_project_name_none_of_them() -> None:
    for file in (*(path.name for path in ROOT.glob("requirements*.lock")), "pyproject.toml"):
        text = (ROOT / file).read_text(encoding="utf-8").lower()
        assert not [name for name in BROKEN if name in text], file
