"""Small Pyro programs of the kinds that are published, each rewritten with its authors' plates and handlers."""

from __future__ import annotations

from tests.programs import counts, flows, images, invariant, labelled, scenes, sequences, shared, styles
from tests.programs.pair import Built, PyroPair, pair

__all__ = ["PAIRS", "Built", "PyroPair"]

_LOCAL = (
    images.vae,
    images.cvae,
    images.conv_vae,
    images.pixel_plates,
    labelled.ss_vae_m2,
    labelled.ss_vae_m2_classify,
    labelled.scanvi,
    labelled.cevae,
    labelled.temperature,
    labelled.summed_mixture,
    sequences.dmm,
    sequences.dmm_iaf,
    sequences.gru_text,
    counts.prodlda,
    counts.student_t,
    counts.gamma_poisson,
    counts.negative_binomial,
    counts.beta_binomial,
    counts.dirichlet_multinomial,
    scenes.air,
    flows.vae_flow_prior,
    flows.svi_flow_guide,
    invariant.ivae,
    invariant.jivae,
    invariant.ved,
    invariant.ss_reg,
    styles.functions_with_module,
    styles.functions_with_param,
    styles.lambda_and_partial,
    styles.unregistered,
    styles.unregistered_partial,
    styles.scaled_programs,
    styles.scaled_and_masked,
    styles.dict_batch,
    styles.pyro_module,
    styles.plate_in_init,
    styles.two_latents,
)
_GLOBAL = (shared.bayesian_weight, shared.lda, shared.auto_normal_scale, shared.gmm)

PAIRS: list[PyroPair] = [pair(make) for make in (*_LOCAL, *_GLOBAL)]
