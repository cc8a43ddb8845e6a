"""Pyro and torch plumbing without a variational autoencoder in it; private."""
