"""Options of image tokenizers and of their training (Esser et al. 2021, section 3.1)."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.hparams.adapters import LoRA
from dioscuri.hparams.caption_files import CaptionFiles
from dioscuri.hparams.schema import option
from dioscuri.hparams.sections import Data, Optimizer, Run, Train, Val

_READS_TEXT = ("model.text_length", ())


@dataclass(frozen=True, kw_only=True)
class CaptionedData(CaptionFiles, Data):
    """`[data]`: pictures and, for a decoder that reads texts, the encoder of their captions."""

    text_encoder_path: str = option(
        "",
        path=True,
        needs=_READS_TEXT,
        doc="titok: text encoder of the pictures' captions, CLIP or T5, whose last state the decoder reads: "
        "a folder with config.json, model.safetensors and the tokenizer's files, or a pipeline's folder",
    )


@dataclass(frozen=True, kw_only=True)
class Discriminator:
    """`[discriminator]`: the network that tells reconstructions from pictures; without the section, none."""

    type: str = option(
        "none",
        choices=("none", "patchgan", "stylegan", "dcvae", "vqgan+"),
        doc="patchgan: logits of overlapping patches (Isola et al. 2017), as in taming-transformers; "
        "stylegan: residual blocks down to 4x4 and one logit (Karras et al. 2020), as in MaskGIT; dcvae: "
        "spectrally normalised blocks down to 4x4 with logits and contrastive embeddings at several "
        "resolutions (Parmar et al. 2021), as in the later Metroplex program; vqgan+: convolutions and group "
        "norms, with logits of 16x16 positions (Weber et al. 2024), as in MaskBit and TiTok",
    )
    num_layers: int = option(
        3,
        low=1,
        high=10,
        needs=("type", ("patchgan", "vqgan+")),
        doc="patchgan: strided convolutions; vqgan+: stages, each of which halves the resolution",
    )
    ndf: int = option(
        64,
        low=1,
        high=2**12,
        needs=("type", ("patchgan", "vqgan+")),
        doc="width of the first convolution; patchgan: it doubles up to a factor of 8; vqgan+: it doubles "
        "from the second stage on, and is a multiple of 32",
    )
    norm: str = option(
        "batch",
        choices=("batch", "instance", "none"),
        needs=("type", ("patchgan",)),
        doc="patchgan: normalisation; 'batch' uses statistics of the batch",
    )
    channel_multiplier: float = option(
        1.0,
        low=1 / 512,
        high=16,
        needs=("type", ("stylegan",)),
        doc="stylegan: 256 times this is the width at a side of 64; each halving doubles it, up to 512",
    )
    blur: bool = option(
        True,
        needs=("type", ("stylegan", "vqgan+")),
        doc="blur before halving, else average 2x2 pixels; stylegan: with [1, 3, 3, 1]",
    )
    blur_taps: int = option(
        4,
        choices=(3, 4, 5),
        needs=("type", ("vqgan+",)),
        doc="vqgan+: blur with [1, 2, 1], [1, 3, 3, 1] or [1, 4, 6, 4, 1]",
    )
    legacy_blur_padding: bool = option(
        False,
        needs=("type", ("vqgan+",)),
        doc="vqgan+: the padding of every blur is that of 4 taps, as in TiTok; no difference with 4 taps",
    )
    widths: tuple[int, ...] = option(
        (), low=1, high=2**14, needs=("type", ("dcvae",)), doc="dcvae: widths of the levels, finest first"
    )
    blocks_per_res: int = option(
        1, low=1, high=100, needs=("type", ("dcvae",)), doc="dcvae: blocks per level"
    )
    gan_resos: tuple[int, ...] = option(
        (1, 4),
        low=1,
        high=2**14,
        needs=("type", ("dcvae",)),
        doc="dcvae: sides of the feature maps used for logits",
    )
    contra_resos: tuple[int, ...] = option(
        (1, 4),
        low=1,
        high=2**14,
        needs=("type", ("dcvae",)),
        doc="dcvae: sides of the feature maps used for embeddings",
    )
    legacy_unused_biases: bool = option(
        False,
        needs=("type", ("dcvae",)),
        doc="dcvae: only the heads have biases; the original never adds the others",
    )


@dataclass(frozen=True, kw_only=True)
class Loss:
    """`[loss]`: a mean over all values of the pictures, in the tokenizer's pixel range."""

    reconstruction: str = option("l1", choices=("l1", "l2"), doc="absolute or squared difference")
    reconstruction_weight: float = option(1.0, low=0, doc="weight of that difference")
    perceptual_weight: float = option(
        0.0,
        low=0,
        doc="weight of the perceptual loss, the weighted mean of the networks whose weights are given: "
        "lpips_path, convnext_path, resnet_path",
    )
    lpips_weight: float = option(1.0, low=0, needs=("lpips_path", ()), doc="weight of LPIPS in that mean")
    convnext_weight: float = option(
        1.0, low=0, needs=("convnext_path", ()), doc="weight of ConvNeXt-S in that mean"
    )
    resnet_weight: float = option(
        1.0, low=0, needs=("resnet_path", ()), doc="weight of ResNet-50 in that mean"
    )
    convnext_path: str = option(
        "",
        path=True,
        doc="weights of ConvNeXt-S as torchvision publishes them (.pth or .safetensors): the loss is the "
        "squared difference of its logits (TiTok, Yu et al. 2024)",
    )
    resnet_path: str = option("", path=True, doc="the same of ResNet-50 (MaskBit, Weber et al. 2024)")
    lpips_path: str = option(
        "",
        path=True,
        doc="LPIPS weights, .safetensors: those of its linear layers and, here or in vgg_path, VGG16's",
    )
    vgg_path: str = option(
        "", path=True, needs=("lpips_path", ()), doc="VGG16 weights under torchvision's names, .safetensors"
    )
    proxy_path: str = option(
        "",
        path=True,
        model=True,
        needs=("model.decoder_output", ("proxy_codes", "proxy_pixels")),
        doc="titok: run or folder of the other tokenizer, whose codes the first stage learns, and whose "
        "decoder the second one starts from",
    )
    stage1_path: str = option(
        "",
        path=True,
        model=True,
        needs=("model.decoder_output", ("proxy_pixels",)),
        doc="titok: run or folder of the first stage, which the second one starts from",
    )
    codebook_weight: float = option(1.0, low=0, doc="weight of the quantiser's losses")
    entropy_annealing_factor: float = option(
        0.0,
        low=0,
        needs=("model.entropy_loss_ratio", ()),
        doc="additional weight of the entropy loss in the first step, times entropy_loss_ratio; it falls "
        "linearly to 0",
    )
    entropy_annealing_steps: int = option(
        2000, low=1, needs=("entropy_annealing_factor", ()), doc="steps until it is 0"
    )
    disc_start: int = option(
        0,
        low=0,
        needs=("discriminator.type", ()),
        doc="first step with an adversarial loss and a discriminator",
    )
    disc_weight: float = option(
        0.8, low=0, needs=("discriminator.type", ()), doc="weight of the adversarial loss"
    )
    disc_factor: float = option(
        1.0,
        low=0,
        needs=("discriminator.type", ()),
        doc="factor of the adversarial loss and of the discriminator's",
    )
    adaptive_disc_weight: bool = option(
        True,
        needs=("discriminator.type", ()),
        doc="multiply disc_weight by the ratio of the gradients of reconstruction and adversarial loss with "
        "respect "
        "to the last layer, at most 10,000",
    )
    disc_loss: str = option(
        "hinge",
        choices=("hinge", "vanilla", "non_saturating"),
        needs=("discriminator.type", ()),
        doc="vanilla: half the binary cross-entropies; non_saturating: the full ones, and softplus(-logit) "
        "for the generator, otherwise -logit",
    )
    r1_cost: float = option(
        0.0,
        low=0,
        needs=("discriminator.type", ()),
        doc="weight of the squared gradient of the logits with respect to pictures (R1)",
    )
    gradient_penalty: float = option(
        0.0,
        low=0,
        needs=("discriminator.type", ()),
        doc="weight of (norm of that gradient - 1)^2, as in muse-maskgit-pytorch",
    )
    lecam_weight: float = option(
        0.0,
        low=0,
        needs=("discriminator.type", ()),
        doc="weight of the LeCam penalty (Tseng et al. 2021): the squared excess of the pictures' mean logit "
        "over the reconstructions' moving average, and of the pictures' moving average over the "
        "reconstructions' mean logit",
    )
    lecam_decay: float = option(
        0.999, low=0, high=1, needs=("lecam_weight", ()), doc="decay of those averages, which begin at 0"
    )
    legacy_half_r1: bool = option(
        False,
        needs=("r1_cost", ()),
        doc="r1_cost uses only the logits of the first half of the pictures (golden cases only)",
    )
    contrastive_weight: float = option(
        1.0,
        low=0,
        needs=("discriminator.type", ("dcvae",)),
        doc="dcvae: weight of the contrastive loss, for generator and discriminator",
    )
    patch_nce: bool = option(
        True,
        needs=("discriminator.type", ("dcvae",)),
        doc="dcvae: contrast positions with each other, in groups of at most 1024, else pictures at each "
        "position",
    )
    alternating: bool = option(
        False,
        needs=("discriminator.type", ()),
        doc="update the discriminator first, then the generator against it, each with its own gradient norm; "
        "else both at once",
    )
    revive_below: float = option(
        0.0,
        low=0,
        high=1,
        doc="a code becomes an encoder output of the batch when its share of the tokens, a moving average, "
        "falls below this fraction of 1 / codes; 0: never",
    )
    revive_decay: float = option(0.99, low=0, high=1, needs=("revive_below", ()), doc="decay of that average")
    weight_decay: float = option(0.0, low=0, doc="decoupled weight decay on kernels and the codebook")

    def __post_init__(self) -> None:
        if self.perceptual_weight and not (self.lpips_path or self.convnext_path or self.resnet_path):
            raise UserError(
                "[loss] perceptual_weight needs the weights of a network: set lpips_path, convnext_path or "
                "resnet_path, or perceptual_weight=0"
            )
        networks = [name for name in ("lpips", "convnext", "resnet") if getattr(self, f"{name}_path")]
        if networks and not any(getattr(self, f"{name}_weight") for name in networks):
            raise UserError(
                f"[loss] {networks[0]}_weight is 0, and no other network is weighted: raise it, or leave out "
                f"{networks[0]}_path"
            )
        if self.revive_decay >= 1:
            raise UserError("[loss] revive_decay must be below 1: otherwise the average never changes")


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """`[synthesis]`: what `synthesize.py` does."""

    synthesis_mode: str = option(
        choices=("reconstruction", "encoding", "decoding"),
        doc="reconstruction: pictures and their distances to the originals; encoding: pictures to shards of "
        "tokens; decoding: shards to pictures",
    )
    load_ema_weights: bool = option(doc="use the averaged weights")
    batch_size: int = option(low=1, high=2**20, doc="global batch size")
    n_samples: int = option(0, low=0, high=10**9, doc="pictures to use; 0: all")
    split: str = option(
        "",
        choices=("", "train", "validation", "test"),
        doc="split to read; empty: test for reconstruction, train for encoding",
    )
    save_target_in_reconstruction: bool = option(False, doc="also write the target pictures")
    extractor: str = option(
        "",
        needs=("synthesis_mode", ("reconstruction",)),
        doc="reconstruction: whose features measure the distance to the originals: inception, dinov2, clip "
        "or a classifier's run folder; empty: no distance",
    )
    extractor_weights: str = option(
        "",
        path=True,
        needs=("extractor", ()),
        doc="file or folder of the extractor's weights; empty: the published ones are downloaded",
    )
    tokens_path: str = option(
        "",
        path=True,
        needs=("synthesis_mode", ("encoding", "decoding")),
        doc="encoding: folder to write; decoding: folder to read; empty: the run's latents/tokens_<split>",
    )


@dataclass(frozen=True, kw_only=True)
class HParams:
    """All options of a tokenizer's run."""

    unread = ("train.scan_blocks",)
    """Options of shared sections that this family does not use."""

    run: Run
    data: CaptionedData
    model: Tokenizer
    discriminator: Discriminator
    loss: Loss
    optimizer: Optimizer
    train: Train
    val: Val
    synthesis: Synthesis
    lora: LoRA


ARCHITECTURE = (
    "model",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
    "discriminator",
    "data.target_res",
    "data.channels",
    "data.num_bits",
    "data.dataset_source",
)
"""Options that an existing run cannot change: whole sections or `section.option`."""
