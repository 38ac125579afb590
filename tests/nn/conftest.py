import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Networks draw their first weights from torch's own generator; a test sees the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
