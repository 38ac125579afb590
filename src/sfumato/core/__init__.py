"""The words everybody speaks: spaces, conditions, noise, contracts, registries, errors."""
