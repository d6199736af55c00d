"""Bayesian bi-clustering of spike counts: groups of units that share latent paths, and states of their dynamics."""
