"""Default options of a new hierarchical VAE (Hazami et al. 2022, Efficient-VDVAE)."""

from typing import Any

from dioscuri.face.usual import Values


def usual_options(levels: int, *, halves: bool) -> dict[str, dict[str, Any]]:
    """Options of a model with `levels` levels; with `halves`, each halves the grid."""
    sides: dict[str, float] = {
        "strides": 2 if halves else 1,
        "n_blocks_per_res": 0,
        "n_blocks": 1,
        "n_layers": 2,
    }
    sides |= {"filters": 64, "mid_filters_ratio": 0.5, "kernel_size": 3}
    lists = {f"{path}_{name}": [value] * levels for path in ("up", "down") for name, value in sides.items()}
    return {
        "model": {
            "stable_init": True,
            "initialize_prior_weights_as_zero": False,
            "use_1x1_conv": True,
            "distribution_base": "std",
            "output_distribution_base": "std",
            "gradient_smoothing_beta": 0.6931472,
            "output_gradient_smoothing_beta": 0.6931472,
            "input_conv_filters": 64,
            "input_kernel_size": (3, 3),
            **lists,
            "up_skip_filters": [64] * levels,
            "use_residual_distribution": False,
            "down_latent_variates": [8] * levels,
            "output_kernel_size": (1, 1),
            "num_output_mixtures": 10,
        },
        "loss": {
            "min_mol_logscale": -250.0,
            "variation_schedule": "Linear",
            "vae_beta_anneal_start": 21.0,
            "vae_beta_anneal_steps": 5000.0,
            "vae_beta_min": 1e-4,
            "vae_beta_activation_steps": 10000.0,
            "vae_beta_growth_rate": 1e-5,
            "use_gamma_schedule": True,
            "gamma_max_steps": 10000,
            "scaled_gamma": True,
            "use_weight_decay": True,
            "l2_weight": 1e-2,
        },
        "metrics": {"latent_active_threshold": 1e-4},
        "init": {"batch_size": 1},
        "synthesis": SYNTHESIS,
    }


SYNTHESIS: dict[str, Any] = {
    "synthesis_mode": "generation",
    "variate_masks_quantile": 1.0,
    "save_target_in_reconstruction": False,
    "mask_reconstruction": False,
    "div_stats_subset_ratio": 0.2,
    "n_generation_batches": 1,
    "temperature_settings": [1.0],
    "output_temperature": 1.0,
}


def with_classes(options: Values, given: Values) -> Values:
    """Default options of a new model, with labels and dropped classes where it has classes."""
    if not given.get("model", {}).get("num_classes"):
        return options
    loss = {**options.get("loss", {}), "cond_dropout_prob": 0.1}
    return {**options, "data": {"labels": True}, "loss": loss}
