"""Pictures and texts from anywhere, as batches: sources, right pixels, a stream without a state, latents on disk."""

from sfumato.data.batches import Batches, once
from sfumato.data.openers import names, open_data
from sfumato.data.source import Source
from sfumato.data.texts import Texts

Set = Source | Texts

__all__ = ["Batches", "Set", "Source", "Texts", "names", "once", "open_data"]
