"""Digests and seeds: equal for equal parts in every process, different for different ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.identity import SEED_BITS, bytes_sha256, derive_seed, digest, file_sha256

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(parts=st.lists(VALUES, max_size=4))
def test_equal_parts_give_equal_digests_whatever_the_order_of_keys(parts: list[object]) -> None:
    def reordered(value: object) -> object:
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in reversed(list(value))}
        return [reordered(each) for each in value] if isinstance(value, list) else value

    assert digest(*parts) == digest(*[reordered(part) for part in parts])
    assert 0 <= derive_seed(*parts) < 2**SEED_BITS


@given(first=st.lists(st.text(max_size=4), max_size=3), second=st.lists(st.text(max_size=4), max_size=3))
def test_different_texts_give_different_digests_wherever_they_are_cut(first: list[str], second: list[str]) -> None:
    assert (digest(*first) == digest(*second)) == (first == second)


def test_kinds_are_told_apart() -> None:
    parts: list[object] = [1, 1.0, "1", True, None, [], {}, ""]
    assert len({digest(part) for part in parts}) == 8


def test_digests_are_the_same_in_another_process() -> None:
    code = "from avpref.identity import *; print(digest('ä', [1, {'b': 2, 'a': None}]), derive_seed('x', 7))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "123"}
    )
    assert run.stdout.split() == [digest("ä", [1, {"b": 2, "a": None}]), str(derive_seed("x", 7))]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        digest(value)


@given(data=st.binary(max_size=200))
def test_the_hash_of_a_file_is_the_hash_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path: Path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(data)
    assert file_sha256(path) == file_sha256(str(path)) == bytes_sha256(data)
