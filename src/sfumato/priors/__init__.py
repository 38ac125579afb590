"""Priors p(z | c): what is likely in a latent space, given a condition. Each is handed its networks."""
