"""The text encoder against transformers' own class, small and with random weights; cleaning, cutting, files, kept states."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from avpref.errors import InputError, StorageError
from avpref.models.text import TextBatch
from avpref.models.umt5 import CachedText, Umt5Files, clean, load_encoder, load_tokenizer

LENGTH = 24
WORDS = ["<pad>", "</s>", "<unk>", "▁A", "▁dog", "▁barks", "▁loudly", "▁", "."]
TEXTS = ["A dog barks loudly .", "", "dog", "A dog . " * 40, "кошка 猫 🐈", "dog"]


def make_encoder():
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(6)
    config = UMT5Config(vocab_size=20, d_model=16, d_kv=6, d_ff=40, num_layers=3, num_heads=2, initializer_factor=0.6)
    return UMT5EncoderModel(config).eval().requires_grad_(False)


def write_tokenizer(path: Path, words: Sequence[str] = WORDS) -> None:
    """As google/umt5-xxl's: sentence pieces over metaspaces, and the end token after every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram([(word, -float(rank)) for rank, word in enumerate(words)], unk_id=2))
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.enable_padding(length=99)  # as some files come; it must not matter
    tokenizer.save(str(path))


@pytest.fixture(scope="module")
def network():
    return make_encoder()


@pytest.fixture(scope="module")
def files(network, tmp_path_factory: pytest.TempPathFactory) -> Umt5Files:
    folder = tmp_path_factory.mktemp("wan")
    network.save_pretrained(folder / "text_encoder", max_shard_size="8KB")
    assert len(list((folder / "text_encoder").glob("*.safetensors"))) > 2
    (folder / "tokenizer").mkdir()
    write_tokenizer(folder / "tokenizer" / "tokenizer.json")
    return Umt5Files(folder / "text_encoder", folder / "tokenizer", torch.float32, length=LENGTH)


def test_states_are_those_of_the_padded_and_masked_encoder(network, files: Umt5Files) -> None:
    tokenizer = load_tokenizer(files.tokenizer, LENGTH)
    rows = [tokenizer.encode(clean(text)).ids for text in TEXTS]
    ids = torch.tensor([[*row, *[0] * (LENGTH - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (LENGTH - len(row)) for row in rows])
    expected = network(input_ids=ids, attention_mask=mask).last_hidden_state * mask[:, :, None]
    states, actual = files.load().encode(TEXTS)
    assert states.shape == (len(TEXTS), LENGTH, 16) and torch.equal(actual, mask.float())
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    assert (actual.sum(1) == torch.tensor([7, 1, 2, LENGTH, len(rows[4]), 2])).all()


def test_texts_do_not_depend_on_their_neighbours(files: Umt5Files) -> None:
    encoder = files.load()
    together = encoder.encode(TEXTS)
    for index, text in enumerate(TEXTS):
        states, mask = encoder.encode([text])
        assert torch.equal(states[0], together.states[index]) and torch.equal(mask[0], together.mask[index])
    assert torch.equal(together.states[2], together.states[5])


def test_long_texts_keep_their_beginning_and_the_end_token(files: Umt5Files) -> None:
    tokenizer = load_tokenizer(files.tokenizer, LENGTH)
    ids = tokenizer.encode("dog " * 2500).ids
    assert len(ids) == LENGTH and ids[-1] == 1 and set(ids[:-1]) == {WORDS.index("▁dog")}
    assert len(files.load().encode(["dog " * 2500]).mask[0].nonzero()) == LENGTH


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A\tDog \n\n barks\u00a0 ", "A Dog barks"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("schÃ¶n", "schön"),
        ("“quoted”", '"quoted"'),
        ("lone \ud800 half", "lone \ufffd half"),
        ("", ""),
        ("静态，细节模糊不清", "静态,细节模糊不清"),
    ],
)
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_any_characters_are_a_prompt(files: Umt5Files, tmp_path: Path) -> None:
    strange = ["\x00\x01 dog", "\ud83d", "a{b}|0|", "🐈" * 3000, " \n ", "../../etc"]
    kept = CachedText(files, tmp_path).encode(strange)
    direct = files.load().encode(strange)
    assert torch.equal(kept.states, direct.states) and torch.equal(kept.mask, direct.mask)
    assert kept.states.isfinite().all() and (kept.mask.sum(1) >= 1).all()


def wan_state(network) -> dict[str, torch.Tensor]:
    """The state dict under the names of Wan's own module."""
    parts = {
        "layer.0.layer_norm": "norm1",
        "layer.1.layer_norm": "norm2",
        "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "layer.0.SelfAttention": "attn",
        "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
        "layer.1.DenseReluDense.wi_1": "ffn.fc1",
        "layer.1.DenseReluDense.wo": "ffn.fc2",
    }
    state = {"token_embedding.weight": network.shared.weight}
    for name, tensor in network.encoder.state_dict().items():
        for new, old in parts.items():
            name = name.replace(new, old)
        if not name.startswith("embed_tokens"):
            state[re.sub(r"^block\.", "blocks.", name).replace("final_layer_norm", "norm")] = tensor
    return state


def test_wans_own_file(network, files: Umt5Files, tmp_path: Path) -> None:
    state = wan_state(network)
    assert {
        "blocks.2.attn.o.weight",
        "blocks.0.ffn.gate.0.weight",
        "blocks.1.norm2.weight",
        "norm.weight",
    } <= state.keys()
    assert len(state) == 2 + 3 * 10
    path = tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"
    torch.save(state, path)
    encoder = replace(files, weights=path)
    torch.testing.assert_close(encoder.load().encode(TEXTS).states, files.load().encode(TEXTS).states)
    actual, expected = load_encoder(path).state_dict(), network.encoder.state_dict()
    assert actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)
    for broken in (dict(list(state.items())[:-1]), {**state, "blocks.0.attn.q.bias": torch.ones(2)}):
        torch.save(broken, path)
        with pytest.raises(InputError, match=r"1 missing|1 unexpected"):
            load_encoder(path)
    torch.save({"token_embedding.weight": torch.ones(3, 4)}, path)
    with pytest.raises(InputError, match="no UMT5 encoder"):
        load_encoder(path)


def test_a_checkpoint_of_the_whole_translator(network, files: Umt5Files, tmp_path: Path) -> None:
    state = {**network.state_dict(), "decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2)}
    torch.save({**state, "lm_head.weight": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((files.weights / "config.json").read_bytes())
    actual = load_encoder(tmp_path).state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in network.encoder.state_dict().items())


def test_half_precision(files: Umt5Files) -> None:
    half, whole = replace(files, dtype=torch.bfloat16).load().encode(TEXTS), files.load().encode(TEXTS)
    assert half.states.dtype == torch.bfloat16 and half.mask.dtype == torch.float32
    difference = (half.states.float() - whole.states).abs()
    assert 0 < difference.mean() < 0.05


def test_fingerprints_tell_encoders_apart(files: Umt5Files, tmp_path: Path) -> None:
    assert files.load().fingerprint == files.fingerprint == replace(files).fingerprint
    write_tokenizer(tmp_path / "tokenizer.json", [*WORDS, "x"])
    state = load_file(next(iter(sorted(files.weights.glob("*.safetensors")))))
    others = [replace(files, dtype=torch.bfloat16), replace(files, length=23), replace(files, tokenizer=tmp_path)]
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in files.weights.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert replace(files, weights=moved).fingerprint == files.fingerprint
    name = next(iter(state))
    save_file({**state, name: state[name] + 1}, sorted(moved.glob("*.safetensors"))[0], metadata={"format": "pt"})
    others.append(replace(files, weights=moved))
    assert len({files.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_files_that_do_not_fit(network, files: Umt5Files, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        load_tokenizer(tmp_path)
    write_tokenizer(tmp_path / "tokenizer.json", [*WORDS, *"abcdefghijklmnop"])
    with pytest.raises(InputError, match="25 tokens for an encoder of 20"):
        replace(files, tokenizer=tmp_path).load()
    from tokenizers import Tokenizer

    bare = json.loads((files.tokenizer / "tokenizer.json").read_text())
    Tokenizer.from_str(json.dumps({**bare, "post_processor": None})).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="adds 0 tokens"):
        load_tokenizer(tmp_path)
    network.save_pretrained(tmp_path / "t5")
    config = json.loads((tmp_path / "t5" / "config.json").read_text())
    (tmp_path / "t5" / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    with pytest.raises(InputError, match="holds a t5"):
        load_encoder(tmp_path / "t5")


@dataclass
class CountedEncoder:
    """Stands for an encoder's files; counts loads and remembers which texts were encoded."""

    fingerprint: str = "counted"
    length: int = 5
    loads: int = 0
    encoded: list[str] = field(default_factory=list)

    def load(self) -> CountedEncoder:
        self.loads += 1
        return self

    def encode(self, texts: Sequence[str]) -> TextBatch:
        self.encoded += texts
        states, mask = torch.zeros(len(texts), 5, 3), torch.zeros(len(texts), 5)
        for row, text in enumerate(texts):
            states[row, : len(text)], mask[row, : len(text)] = float(len(text)), 1.0
        return TextBatch(states, mask)


def test_texts_are_encoded_once(tmp_path: Path) -> None:
    counted = CountedEncoder()
    kept = CachedText(counted, tmp_path / "texts")
    assert kept.missing(["ab", "c", "ab"]) == ["ab", "c"] and counted.loads == 0
    first = kept.encode(["ab", "c", "ab"])
    assert counted.encoded == ["ab", "c"] and counted.loads == 1
    assert torch.equal(first.states, counted.encode(["ab", "c", "ab"]).states)
    counted.encoded.clear()
    other = CachedText(counted, tmp_path / "texts")
    again = other.encode(["ab", "c", "ab"])
    assert counted.loads == 1 and not counted.encoded
    assert torch.equal(again.states, first.states) and torch.equal(again.mask, first.mask)
    other.encode(["new"])
    other.release()
    other.encode(["newer"])
    assert counted.loads == 3
    replaced = CachedText(replace(counted, fingerprint="other"), tmp_path / "texts")
    assert replaced.missing(["ab"]) == ["ab"] and replaced.fingerprint == "other"


def test_damaged_and_forbidden_files(tmp_path: Path) -> None:
    kept = CachedText(CountedEncoder(), tmp_path / "texts")
    kept.encode(["ab"])
    kept.path_of("ab").write_bytes(b"half")
    with pytest.raises(InputError, match="cannot be read") as caught:
        kept.encode(["ab"])
    assert kept.path_of("ab").name in caught.value.fix
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        CachedText(CountedEncoder(), tmp_path / "file").encode(["ab"])


def test_the_real_encoder_is_kept_bit_by_bit(files: Umt5Files, tmp_path: Path) -> None:
    half = replace(files, dtype=torch.bfloat16)
    direct, kept = half.load().encode(TEXTS), CachedText(half, tmp_path)
    for _ in range(2):
        actual = kept.encode(TEXTS)
        assert torch.equal(actual.states, direct.states) and torch.equal(actual.mask, direct.mask)
        assert actual.states.dtype == torch.bfloat16
        kept.release()
    files_kept = list(tmp_path.rglob("*.safetensors"))
    assert len(files_kept) == len(set(TEXTS))
