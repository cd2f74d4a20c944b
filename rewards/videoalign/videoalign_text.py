"""The text input of VideoAlign: the rubric with the caption in it, as a chat of Qwen2-VL, in tokens.

The rubric belongs to the published model and is not part of this package: it is a string constant of the file
``prompt_template.py`` beside the weights. The file is parsed, not run, and accepted only if the rendered rubric has known hashes.

A caption is always plain text. Only this module inserts special tokens: a caption that spells one (such as
``<|VQ_reward|>``) is tokenised like any other word, so it can neither add scores nor end the turn. For every other caption
the tokens are those of the original, which searches the whole text for special tokens.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from avpref.errors import InputError
from avpref.identity import bytes_sha256, digest, file_sha256

REWARD_TOKENS = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
VIDEO_TOKEN = "<|video_pad|>"
TURN_STARTS, TURN_ENDS, VIDEO_STARTS, VIDEO_ENDS = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
SPECIAL_TOKENS = (TURN_STARTS, TURN_ENDS, VIDEO_STARTS, VIDEO_ENDS, VIDEO_TOKEN, *REWARD_TOKENS)
SYSTEM = "system\nYou are a helpful assistant."

TEMPLATE_CONSTANT = "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"
"""Name of the string constant of the published file that the model was trained with ("detailed_special")."""

PUBLISHED_RENDERINGS: Mapping[str, str] = {
    "A dog barks in the park.": "3d407d6deb508fee07ac8e2e504a53276775a6d95d5ec7f7ac2c74d849195bd5",
    'Two players rally on a tennis court, "loud" hits & cheers.': "09fd5e5e730770e1b7703c60bdf6f02e06226d8fb5fd3879a452a840e6ecdddf",
}
"""SHA-256 (UTF-8) of the published rubric rendered with each of two captions."""

FETCH = "avpref weights fetch videoalign"
TINY_TEMPLATE = "\nIs it sharp? <|VQ_reward|>\nDoes it move well? <|MQ_reward|>\nIs it {text_prompt}? <|TA_reward|>\n"


def read_template(path: Path, renderings: Mapping[str, str] = PUBLISHED_RENDERINGS) -> str:
    """The rubric with the placeholder ``{text_prompt}``, from the published Python file at ``path``, which is not run.

    ``renderings`` maps captions to the SHA-256 of the rubric rendered with them. Raises InputError if the file is absent or
    unreadable, or if a rendered rubric has another hash.
    """
    template = _constant(path, TEMPLATE_CONSTANT)
    try:
        hashes = {caption: bytes_sha256(render(template, caption).encode()) for caption in renderings}
    except (LookupError, ValueError, AttributeError) as error:
        raise _not_published(path, f"a rubric with another placeholder than {{text_prompt}} ({error})") from error
    if hashes != dict(renderings):
        raise _not_published(path, "another rubric than the published one")
    return template


def render(template: str, caption: str) -> str:
    """The rubric rendered with ``caption``, character for character as in the original."""
    return template.format(text_prompt=caption)


def _constant(path: Path, name: str) -> str:
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is absent", "the file with VideoAlign's rubric", FETCH) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _not_published(path, f"no Python source ({type(error).__name__})") from error
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=str(text))) if target == name:
                return text
    raise _not_published(path, f"no string {name}")


def _not_published(path: Path, content: str) -> InputError:
    return InputError(f"{path} holds {content}", "the published file, unchanged", FETCH)


@dataclass(frozen=True, eq=False)
class VideoAlignText:
    """Converts a caption and a number of video tokens to token ids. ``identity`` changes if any ids would change."""

    template: str
    tokenizer: Tokenizer
    identity: str

    @property
    def video_id(self) -> int:
        """The id of the placeholder tokens that the network replaces by visual embeddings."""
        return self._id(VIDEO_TOKEN)

    @property
    def reward_ids(self) -> tuple[int, ...]:
        """The ids of the tokens at which the scores are read: visual quality, motion quality, text alignment."""
        return tuple(self._id(name) for name in REWARD_TOKENS)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, including special ones."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    def token_ids(self, caption: str, num_video_tokens: int) -> Tensor:
        """The chat as token ids int64 [L]: system message, video and rubric of the user, and the start of the assistant's turn.

        Each reward token occurs exactly once, for any caption.
        """
        starts, ends = self._id(TURN_STARTS), self._id(TURN_ENDS)
        system = [starts, *self._plain(SYSTEM), ends, *self._plain("\n")]
        video = [self._id(VIDEO_STARTS), *[self.video_id] * num_video_tokens, self._id(VIDEO_ENDS)]
        user = [starts, *self._plain("user\n"), *video, *self._rubric(caption), ends, *self._plain("\n")]
        return torch.tensor([*system, *user, starts, *self._plain("assistant\n")])

    def _rubric(self, caption: str) -> list[int]:
        """Token ids of the rubric. It is split at its reward tokens before it is rendered, so the caption cannot add any."""
        ids: list[int] = []
        for piece in re.split(f"({'|'.join(map(re.escape, REWARD_TOKENS))})", self.template):
            ids += [self._id(piece)] if piece in REWARD_TOKENS else self._plain(render(piece, caption))
        return ids

    def _id(self, name: str) -> int:
        token_id = self.tokenizer.token_to_id(name)
        assert token_id is not None, f"no token {name}"
        return token_id

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def reward_positions(token_ids: Tensor, reward_ids: Sequence[int]) -> Tensor:
    """Positions int64 [3] of the reward tokens in ``token_ids`` [L]. Each must occur exactly once."""
    positions = [torch.nonzero(token_ids == reward_id)[:, 0] for reward_id in reward_ids]
    counts = [len(occurrences) for occurrences in positions]
    assert all(count == 1 for count in counts), f"reward tokens occur {counts} times"
    return torch.cat(positions)


def read_text(template: Path, tokenizer: Path, renderings: Mapping[str, str] = PUBLISHED_RENDERINGS) -> VideoAlignText:
    """The text input from the published files ``prompt_template.py`` and ``tokenizer.json``.

    The tokenizer may be that of the checkpoint or of the base model: reward tokens that it lacks are added, with the same
    ids. Raises InputError if a file is absent, damaged, or not the published one.
    """
    rubric = read_template(template, renderings)
    try:
        loaded = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the library raises no more specific class
        raise InputError(f"{tokenizer} cannot be read: {error}", "the tokenizer.json of VideoAlign", FETCH) from error
    missing = [name for name in SPECIAL_TOKENS if name not in REWARD_TOKENS and loaded.token_to_id(name) is None]
    if missing:
        raise InputError(f"{tokenizer} has no {', '.join(missing)}", "the tokenizer.json of VideoAlign", FETCH)
    return _text(rubric, loaded, file_sha256(tokenizer))


def tiny_text() -> VideoAlignText:
    """A short rubric and a tokenizer of single bytes, for tests and dry runs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([_special(name) for name in SPECIAL_TOKENS if name not in REWARD_TOKENS])
    return _text(TINY_TEMPLATE, tokenizer, "bytes")


def _text(template: str, tokenizer: Tokenizer, identity: str) -> VideoAlignText:
    """Configure ``tokenizer``: add the reward tokens, no truncation, no padding, special tokens in plain text are not parsed."""
    tokenizer.add_special_tokens([_special(name) for name in REWARD_TOKENS])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return VideoAlignText(template, tokenizer, digest("videoalign text", 1, template, identity))


def _special(name: str) -> AddedToken:
    return AddedToken(name, special=True, normalized=False)
