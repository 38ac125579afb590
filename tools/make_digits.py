"""Makes src/sfumato/data/embedded/digits.npz from scikit-learn's copy of the UCI digits: 1,797 of 8×8, values 0 … 16.

python tools/make_digits.py src/sfumato/data/embedded
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
np.savez_compressed(Path(sys.argv[1]) / "digits.npz", images=images, labels=labels)
