"""The twins are read side by side: the same files, the same public names, the same arguments."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TWINS = ("torch_impl", "jax_impl")

# Arguments for the device, the source of randomness or compilation (`scan` is JAX only), which differ by
# framework.
OWN_ARGUMENTS = {"self", "device", "rngs", "scan"}

# The frameworks' own words for the same thing.
SYNONYMS = {"tensor": "array", "tensors": "arrays", "Tensors": "Arrays"}

# What only one framework has, with the reason. A file covers all its names, a class all its members.
ALLOWED = {
    "devices.py": "torch has one process a device, JAX one mesh over the devices of all processes",
    "optim/flat.py": "torch's parameters are views of the vector; JAX splits and joins it inside the step",
    "inference.py": "torch runs a module, JAX a compiled function of its parameters",
    "optim/optimizers.py": "torch's rules move vectors in place, JAX's are optax transformations",
    "replay.py": "CUDA graphs are torch's; XLA compiles the whole step anyway",
    "torch_files.py": "the files are PyTorch's own, and JAX writes them through that twin",
    "vision.py": "the library transformers has networks of torch alone",
    "trainer.py::Trainer.__init__": "torch's parameters are views of a vector, JAX's a tree made of it",
    "trainer.py::Trainer.add_gradient": "torch adds gradients up in place",
    "trainer.py::Trainer.gradient_of": "JAX returns them",
    "trainer.py::Trainer.refresh": "torch keeps one copy of the parameters in bfloat16",
    "trainer.py::Trainer.weights": "JAX makes it within the step",
    "trainer.py::Trainer.model": "the same",
    "footprint.py::FlopCounter": "torch counts what it runs, JAX what it has traced",
    "footprint.py::Memory": "torch follows its tensors, JAX asks the compiler",
    "layers/initial.py": "how each framework is kept from drawing first values, which the tables have",
    "layers/norms.py::ChannelNorm.__call__": "torch's maps have channels in the middle, JAX's at the end",
    "layers/norms.py::LayerNorm": "nnx's own are slower",
    "layers/norms.py::RMSNorm": "the same",
    "layers/dense.py::PointwiseDense": "JAX keeps it as a matrix",
    "layers/dropout.py::Dropout": "nnx's draws by random streams and begins switched on",
    "layers/dropout.py::seed_dropout": "torch draws from its default generator",
    "layers/paella.py::Halving.__call__": "torch's convolutions take channels in the middle",
    "layers/paella.py::Doubling.__call__": "the same",
    "layers/resnet.py::GroupNorm": "the same",
    "layers/resnet.py::Halved.__call__": "torch's convolutions pad both sides alike",
    "models/uvit_blocks.py::Depthwise.__call__": "torch's convolutions take channels in the middle",
    "layers/dense.py::Linear": "torch's own layers follow their weights' dtype already",
    "layers/dense.py::Embedding": "the same",
    "layers/dense.py::to_weights": "the same",
    "layers/convolution.py::Conv": "the same",
    "layers/convolution.py::inside_loop": "XLA compiles loops, in which a CPU has slow gradients",
    "layers/dense.py::broadcast": "torch broadcasts a vector along an array; JAX is told to refuse",
    "families/hierarchical_vae.py::HierarchicalVAEMethods.regions": "what torch.compile compiles one by one",
    "families/metroplex.py::MetroplexMethods.regions": "the same",
    "families/vqgan.py::TokenizerMethods.regions": "the same",
    "families/methods.py::FamilyMethods.regions": "the same",
    "families/methods.py::FamilyMethods.compile": "the same",
    "families/lora.py::LoRAMethods.regions": "the same",
    "families/lora.py::CompletingTrainer.add_gradient": "torch adds gradients up in place",
    "families/lora.py::CompletingTrainer.gradient_of": "JAX returns them",
    "layers/lora.py::Mask": "torch keeps a mask as an attribute, JAX as a variable",
    "layers/lora.py::Adapted.mask": "the same",
    "layers/lora.py::LoRAPointwise": "torch has maps with channels first, and a class for their dense layers",
    "layers/convolution.py::POINTWISE": "the same",
    "layers/convolution.py::pointwise": "the same",
    "layers/convolution.py::pointwise_product": "the same",
    "layers/lora.py::trained_kind": "torch asks each parameter",
    "families/methods.py::FamilyMethods.blocks": "the units of FSDP2; XLA sees single parameters",
    "families/vqgan.py::TokenizerMethods.blocks": "the same",
    "optim/step.py::Settings.norm": "a process of torch may hold a share; JAX's arrays are global",
    "sharding.py": "FSDP2 is torch's; JAX names the vectors' sharding",
}


def files(twin: str) -> set[str]:
    """Python and shell files of a twin, relative to it."""
    root = ROOT / twin
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.suffix in (".py", ".sh") and "logs-" not in str(path)
    }


def public_api(source: str) -> dict[str, tuple]:
    """Public names of a module, callables with their arguments; `forward` counts as `__call__`."""
    api: dict[str, tuple] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            api[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef):
            api[node.name] = ("class",)
            api.update((f"{node.name}.{name}", value) for name, value in members(node).items())
        else:
            api |= dict.fromkeys(assigned(node), ("value",))
    return {
        name: value
        for name, value in api.items()
        if not any(part.startswith("_") and part not in ("__init__", "__call__") for part in name.split("."))
    }


def members(node: ast.ClassDef) -> dict[str, tuple]:
    """Methods and annotated fields of a class."""
    found: dict[str, tuple] = {}
    for child in node.body:
        if isinstance(child, ast.FunctionDef):
            found["__call__" if child.name == "forward" else child.name] = arguments(child)
        elif isinstance(child, ast.AnnAssign):
            found |= dict.fromkeys(assigned(child), ("value",))
    return found


def assigned(node: ast.stmt) -> list[str]:
    """Names that an assignment at module or class level defines."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [SYNONYMS.get(target.id, target.id) for target in targets if isinstance(target, ast.Name)]


def arguments(node: ast.FunctionDef) -> tuple:
    """Arguments in order: name, kind, and whether there is a default."""
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    required = len(positional) - len(spec.defaults)
    listed = [(arg.arg, "positional", i >= required) for i, arg in enumerate(positional)]
    listed += [
        (arg.arg, "keyword", default is not None)
        for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    ]
    listed += [(arg.arg, "variadic", False) for arg in (spec.vararg, spec.kwarg) if arg]
    return tuple((SYNONYMS.get(name, name), *rest) for name, *rest in listed if name not in OWN_ARGUMENTS)


def differences() -> dict[str, str]:
    """All differences of the twins' trees: file or file::name -> difference."""
    torch_files, jax_files = map(files, TWINS)
    found = dict.fromkeys(torch_files - jax_files, "only in torch_impl")
    found |= dict.fromkeys(jax_files - torch_files, "only in jax_impl")
    for file in sorted(torch_files & jax_files):
        if file.endswith(".py"):
            torch_api, jax_api = (public_api((ROOT / twin / file).read_text()) for twin in TWINS)
            for name in torch_api | jax_api:
                if torch_api.get(name) != jax_api.get(name):
                    found[f"{file}::{name}"] = f"torch {torch_api.get(name)}, jax {jax_api.get(name)}"
    return found


def explanations(where: str) -> set[str]:
    """Entries of ALLOWED that cover a difference."""
    return {key for key in ALLOWED if where == key or where.startswith((f"{key}::", f"{key}."))}


def test_twins_mirror_each_other():
    unexplained = {where: what for where, what in differences().items() if not explanations(where)}
    assert not unexplained


def test_every_exception_is_still_needed():
    assert set().union(*map(explanations, differences())) == set(ALLOWED)


@pytest.mark.parametrize("name", ["train.sh", "reset.sh"])
def test_scripts_differ_only_in_the_name_of_the_framework(name):
    torch_script, jax_script = ((ROOT / twin / name).read_text() for twin in TWINS)
    assert torch_script.replace("PyTorch", "JAX") == jax_script


def test_arguments_are_compared():
    def api(signature):
        return public_api(f"class A:\n    def forward(self, {signature}): ...")["A.__call__"]

    assert api("x, y=1, *, device=None") == api("x, y=2")
    assert len({api("x, y"), api("y, x"), api("x, y=1"), api("x, *, y"), api("x, *y"), api("x")}) == 6
