"""Callbacks: code of the user's that runs during a training, and loggers."""

from pyro_vae.training.callbacks.base import Callback, Training
from pyro_vae.training.callbacks.csv import CSV
from pyro_vae.training.callbacks.mlflow import MLflow
from pyro_vae.training.callbacks.optuna import OptunaPruner
from pyro_vae.training.callbacks.tensorboard import TensorBoard
from pyro_vae.training.callbacks.wandb import WandB

__all__ = ["CSV", "Callback", "MLflow", "OptunaPruner", "TensorBoard", "Training", "WandB"]
