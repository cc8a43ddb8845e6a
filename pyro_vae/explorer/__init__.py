"""The explorer: a trained model as one self-contained HTML page, which runs encoder and decoder in the browser."""

from pyro_vae.explorer.page import explore

__all__ = ["explore"]
