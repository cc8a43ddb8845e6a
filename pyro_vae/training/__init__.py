"""Training: the loop, the step engines and the run folder."""

from pyro_vae.training.engine import EagerEngine, Engine, StepResult
from pyro_vae.training.fit import fit
from pyro_vae.training.loop import FitResult
from pyro_vae.training.nonfinite import NonFiniteError
from pyro_vae.training.run import Run

__all__ = ["EagerEngine", "Engine", "FitResult", "NonFiniteError", "Run", "StepResult", "fit"]
