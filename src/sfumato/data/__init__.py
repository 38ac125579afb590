"""Pictures from anywhere, as batches: sources, right pixels, captions, a stream without a state, latents on disk."""

from sfumato.data.batches import Batches, once
from sfumato.data.openers import names, open_data
from sfumato.data.source import Source

__all__ = ["Batches", "Source", "names", "once", "open_data"]
