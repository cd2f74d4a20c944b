"""Open the codec that a configuration names, for clips of one shape."""

from __future__ import annotations

from avpref.config.codec_settings import CodecSettings, IdentityCodecSettings, JavisCodecSettings
from avpref.media.geometry import ClipShape
from avpref.models.codecs.codec import Codec, IdentityCodec


def codec_of(settings: CodecSettings, shape: ClipShape, device: str = "cpu") -> Codec:
    """The codec of ``settings`` for clips of ``shape``.

    Raises ConfigError where it cannot make clips of that shape, InputError where weights are absent.
    """
    match settings:
        case IdentityCodecSettings() as config:
            return IdentityCodec(config, shape)
        case JavisCodecSettings() as config:
            from avpref.models.codecs.javis_codec import JavisCodec

            return JavisCodec(config, shape, device)
