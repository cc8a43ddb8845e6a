"""Configured runs: train one, load it, list its results, compare and report them."""
