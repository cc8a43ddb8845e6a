"""Training: the loop, the step engines and the run folder."""

from pyro_vae.data.batches import Batch
from pyro_vae.training.choice import EngineName, build_engine
from pyro_vae.training.compiled import CompiledEngine
from pyro_vae.training.cuda_graph import CudaGraphEngine
from pyro_vae.training.engine import EagerEngine, Engine, Step, StepResult
from pyro_vae.training.fit import fit
from pyro_vae.training.nonfinite import NonFiniteError
from pyro_vae.training.problem import Problem
from pyro_vae.training.refit import Refitted, frozen, refit_guide
from pyro_vae.training.run import Run
from pyro_vae.training.settings import FitResult

__all__ = [
    "Batch",
    "CompiledEngine",
    "CudaGraphEngine",
    "EagerEngine",
    "Engine",
    "EngineName",
    "FitResult",
    "NonFiniteError",
    "Problem",
    "Refitted",
    "Run",
    "Step",
    "StepResult",
    "build_engine",
    "fit",
    "frozen",
    "refit_guide",
]
