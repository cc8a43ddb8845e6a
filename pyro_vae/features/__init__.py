"""Transformer, classifier and outlier detector of scikit-learn. Importing this subpackage imports scikit-learn."""

from pyro_vae.features.fine_tuning import EncoderClassifier, VAEClassifier, fine_tune
from pyro_vae.features.outlier_detector import VAEOutlierDetector
from pyro_vae.features.transformer import VAETransformer

__all__ = ["EncoderClassifier", "VAEClassifier", "VAEOutlierDetector", "VAETransformer", "fine_tune"]
