"""Conditioners: what the user says (a label, a caption, a picture, its tokens) becomes a Condition."""

from sfumato.conditioners.labels import Labels
from sfumato.conditioners.picture import Picture
from sfumato.conditioners.reading import Reading
from sfumato.conditioners.several import Several
from sfumato.conditioners.text import Text

__all__ = ["Labels", "Picture", "Reading", "Several", "Text"]
