"""Networks that go from coarse to fine in the plane: pyramids, U-Nets, ladders, flows."""
