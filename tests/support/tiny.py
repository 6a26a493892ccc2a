"""The smallest hierarchical VAE: three latent groups of two widths, on the digits."""

from tests.support import sections

TINY = sections.merged("""
[data]
num_bits = 4.

[model]
stable_init = True
initialize_prior_weights_as_zero = False
use_1x1_conv = True
distribution_base = 'std'
output_distribution_base = 'std'
gradient_smoothing_beta = 0.6931472
output_gradient_smoothing_beta = 0.6931472
input_conv_filters = 8
input_kernel_size = (3, 3)
up_strides = [2, 2]
up_n_blocks_per_res = [0, 0]
up_n_blocks = [1, 1]
up_n_layers = [1, 1]
up_filters = [8, 8]
up_mid_filters_ratio = [0.5, 0.5]
up_kernel_size = [3, 3]
up_skip_filters = [8, 8]
use_residual_distribution = False
down_strides = [2, 2]
down_n_blocks_per_res = [1, 0]
down_n_blocks = [1, 1]
down_n_layers = [1, 1]
down_filters = [8, 8]
down_mid_filters_ratio = [1., 1.]
down_kernel_size = [3, 3]
down_latent_variates = [4, 3]
output_kernel_size = (1, 1)
num_output_mixtures = 3

[loss]
min_mol_logscale = -7.
variation_schedule = 'Linear'
vae_beta_anneal_start = 1
vae_beta_anneal_steps = 5
vae_beta_min = 1e-4
vae_beta_activation_steps = 10
vae_beta_growth_rate = 1e-2
use_gamma_schedule = True
gamma_max_steps = 3
scaled_gamma = True
use_weight_decay = True
l2_weight = 1e-2

[metrics]
latent_active_threshold = 1e-4
report_baselines = True

[optimizer]
type = 'Adamax'
learning_rate_scheme = 'cosine'
learning_rate = 1e-2

[init]
batch_size = 1

[synthesis]
synthesis_mode = 'reconstruction'
variate_masks_quantile = 0.5
save_target_in_reconstruction = True
mask_reconstruction = False
div_stats_subset_ratio = 0.01
n_generation_batches = 2
temperature_settings = [0.5, [0.8, 1], ('linear', 0.8, 1.)]
output_temperature = 1.
n_samples = 10
""")

write_tiny, tiny = sections.writer_and_options("tiny.cfg", TINY)
