"""Use of the latents of a trained model: interpolate, traverse, edit, and find neighbours.

Functions are called ``f(vae, data, ...)`` for any model of this package, or any object with a Pyro model and its guide.
"""

from pyro_vae.latents.arithmetic import analogy, edit
from pyro_vae.latents.attributes import attribute_auroc, attribute_vector, synthetic_vector
from pyro_vae.latents.corners import lattice
from pyro_vae.latents.interpolation import Decoded, Interpolation, interpolate, reconstruct
from pyro_vae.latents.neighbours import Neighbours, nearest
from pyro_vae.latents.space import Codes, LatentSpace
from pyro_vae.latents.traversal import Traversal, traverse

__all__ = [
    "Codes",
    "Decoded",
    "Interpolation",
    "LatentSpace",
    "Neighbours",
    "Traversal",
    "analogy",
    "attribute_auroc",
    "attribute_vector",
    "edit",
    "interpolate",
    "lattice",
    "nearest",
    "reconstruct",
    "synthetic_vector",
    "traverse",
]
