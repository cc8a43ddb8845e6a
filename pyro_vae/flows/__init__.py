"""Invertible maps and the distributions they make."""
