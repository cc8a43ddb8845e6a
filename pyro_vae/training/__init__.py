"""Training: ``fit``, callbacks, the engines and the run folder."""

from pyro_vae.data.batches import Batch
from pyro_vae.training.callbacks import CSV, Callback, MLflow, OptunaPruner, TensorBoard, Training, WandB
from pyro_vae.training.em import EMResult, fit_em
from pyro_vae.training.engines.base import Engine, Step, StepResult
from pyro_vae.training.engines.compiled import CompiledEngine
from pyro_vae.training.engines.cuda_graph import CudaGraphEngine
from pyro_vae.training.engines.eager import EagerEngine
from pyro_vae.training.engines.select import EngineName, build_engine
from pyro_vae.training.fitting import FitResult, fit
from pyro_vae.training.latent_density import fit_latent_density
from pyro_vae.training.loss import LossFunction
from pyro_vae.training.nonfinite import NonFiniteError
from pyro_vae.training.refit import Refitted, frozen, refit_guide
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.saved_pair import load_pair, save_pair
from pyro_vae.training.suited import vae_for

__all__ = [
    "CSV",
    "Batch",
    "Callback",
    "CompiledEngine",
    "CudaGraphEngine",
    "EMResult",
    "EagerEngine",
    "Engine",
    "EngineName",
    "FitResult",
    "LossFunction",
    "MLflow",
    "NonFiniteError",
    "OptunaPruner",
    "Refitted",
    "RunFolder",
    "Step",
    "StepResult",
    "TensorBoard",
    "Training",
    "WandB",
    "build_engine",
    "fit",
    "fit_em",
    "fit_latent_density",
    "frozen",
    "load_pair",
    "refit_guide",
    "save_pair",
    "vae_for",
]
