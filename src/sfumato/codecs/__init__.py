"""Codecs: data ↔ latent. Pixels, words, and the autoencoder with its bottlenecks."""
