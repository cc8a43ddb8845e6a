"""Data sets as tensors on a device, with explicit splits and binarization protocol."""

from pyro_vae.data.base import Dataset, Splits
from pyro_vae.data.digits import Digits
from pyro_vae.data.faces import Faces
from pyro_vae.data.files import Files
from pyro_vae.data.frey_faces import FreyFaces
from pyro_vae.data.image_set import ImageSet
from pyro_vae.data.kinds import Column
from pyro_vae.data.loading import load
from pyro_vae.data.mnist import MNIST, FashionMNIST
from pyro_vae.data.patches import Patches

__all__ = [
    "MNIST",
    "Column",
    "Dataset",
    "Digits",
    "Faces",
    "FashionMNIST",
    "Files",
    "FreyFaces",
    "ImageSet",
    "Patches",
    "Splits",
    "load",
]
