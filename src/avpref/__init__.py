"""avpref: curate audio-video preference data and align a joint audio-video generator with it."""

__version__ = "0.1.0"
