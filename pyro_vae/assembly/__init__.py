"""Models from their pieces' factories, as the command line and other programs build them."""

from pyro_vae.assembly.latents import active_latents, check_same_data, latents_of, start_at_data
from pyro_vae.assembly.semi_supervised import build_semi_supervised, check_labels_asked, classes_of, count_classes
from pyro_vae.assembly.vae import Device, build_vae, choose_device, load_model, load_weights, takes_guide

__all__ = [
    "Device",
    "active_latents",
    "build_semi_supervised",
    "build_vae",
    "check_labels_asked",
    "check_same_data",
    "choose_device",
    "classes_of",
    "count_classes",
    "latents_of",
    "load_model",
    "load_weights",
    "start_at_data",
    "takes_guide",
]
