"""Training: ``fit``, the engines and the run folder."""

from pyro_vae.data.batches import Batch
from pyro_vae.training.engines.base import Engine, Step, StepResult
from pyro_vae.training.engines.compiled import CompiledEngine
from pyro_vae.training.engines.cuda_graph import CudaGraphEngine
from pyro_vae.training.engines.eager import EagerEngine
from pyro_vae.training.engines.select import EngineName, build_engine
from pyro_vae.training.fitting import FitResult, fit
from pyro_vae.training.loss import LossFunction
from pyro_vae.training.nonfinite import NonFiniteError
from pyro_vae.training.refit import Refitted, frozen, refit_guide
from pyro_vae.training.run_folder import RunFolder
from pyro_vae.training.suited import vae_for

__all__ = [
    "Batch",
    "CompiledEngine",
    "CudaGraphEngine",
    "EagerEngine",
    "Engine",
    "EngineName",
    "FitResult",
    "LossFunction",
    "NonFiniteError",
    "Refitted",
    "RunFolder",
    "Step",
    "StepResult",
    "build_engine",
    "fit",
    "frozen",
    "refit_guide",
    "vae_for",
]
