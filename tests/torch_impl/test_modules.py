"""Every network is an ordinary `nn.Module`: wrappers accept it, and modes and dtypes take effect."""

import copy
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo import config as dynamo_config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from dioscuri.hparams import load
from dioscuri.places import examples
from tests.support.networks import NETWORKS, inputs, tiny_transformer
from torch_impl.devices import exact_float32, set_precision
from torch_impl.families.methods import methods_of
from torch_impl.pretrained import build_model, model_of, weights_of

every_network = pytest.mark.parametrize("name", NETWORKS)


def made(name, *, hparams=None, seed=0):
    """The network in evaluation mode, with no weights at zero, as some initial
    ones are, and its arguments."""
    hparams, generator = hparams or NETWORKS[name](), np.random.default_rng(seed)
    first = weights_of(build_model(hparams, seed))
    weights = {key: value + 0.1 * generator.standard_normal(value.shape) for key, value in first.items()}
    return model_of(hparams, weights), tree_map(torch.from_numpy, inputs(hparams, methods_of(hparams)))


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def observed(model):
    """A set that collects the dtypes of inputs and outputs of matrix products and convolutions."""
    seen = set()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            module.register_forward_hook(lambda _, given, made: seen.update({given[0].dtype, made.dtype}))
    return seen


def assert_close(ours, theirs, relative=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=relative * float(theirs.detach().abs().max()))


@every_network
def test_first_values_are_drawn_and_outputs_depend_on_inputs(name):
    state, (_, arguments) = torch.get_rng_state(), made(name)
    model = build_model(NETWORKS[name]())
    assert torch.equal(torch.get_rng_state(), state)
    output, aux = model(*arguments)
    _, others = model(arguments[0].flip(0), *arguments[1:])
    assert torch.isfinite(output).all()
    assert any(not torch.equal(aux[key], others[key]) for key in aux)
    again, another = build_model(model.hparams, 0), build_model(model.hparams, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), another.parameters(), strict=True))


@every_network
def test_conversions_change_the_arithmetic(name):
    """Matrix products and convolutions use the weights' dtype, and outputs stay close."""
    model, arguments = made(name)
    model.double()
    exact, _ = model(*arguments)
    assert exact.dtype == torch.float64
    for dtype, largest in ((torch.float32, 1e-4), (torch.float16, 1e-1), (torch.bfloat16, 0.5)):
        converted = copy.deepcopy(model).to(dtype)
        seen = observed(converted)
        output, _ = converted(*arguments)
        assert seen == {dtype}
        error = (output.double() - exact).abs().max() / exact.abs().max()
        assert 0 < error < largest


@every_network
def test_weights_go_through_a_state_dict(name):
    model, arguments = made(name)
    table = methods_of(model.hparams).parameter_shapes()
    names = {key for key in table if not key.startswith("discriminator.")}
    state = model.state_dict()
    assert set(state) == names
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = made(name, seed=1)[0]
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(other(*arguments)[0], model(*arguments)[0])
    twin = model_of(model.hparams, weights_of(model))
    assert torch.equal(twin(*arguments)[0], model(*arguments)[0])


@every_network
def test_hooks_fire_and_copies_are_independent(name):
    model, arguments = made(name)
    double = copy.deepcopy(model)
    called = set()
    for path, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(lambda *_, path=path: called.add(path))
    expected, _ = model(*arguments)
    assert len(called) > 3
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(double(*arguments)[0], expected)


@pytest.mark.parametrize("architecture", ["maskgit", "google", "halton", "uvit", "lucidrains"])
def test_dropout_follows_the_mode(architecture):
    hparams = tiny_transformer(architecture, "model.hidden_dropout=0.5", "model.attention_dropout=0.3")
    model, arguments = made(architecture, hparams=hparams)
    expected, _ = model(*arguments)
    assert torch.equal(model(*arguments)[0], expected)
    model.train()
    torch.manual_seed(0)
    first, second = model(*arguments)[0], model(*arguments)[0]
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(model(*arguments)[0], first)
    specs = methods_of(hparams).noise_specs("train_step", len(arguments[0]))
    noise = {
        spec.name: torch.rand(spec.shape)
        for spec in specs
        if spec.kind == "uniform" and spec.name.startswith("dropout.")
    }
    given = model(*arguments, noise)[0]
    assert torch.equal(model(*arguments, noise)[0], given)
    model.eval()
    assert torch.equal(model(*arguments, noise)[0], given)
    assert torch.equal(model(*arguments)[0], expected)


@pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning")  # of kernels with one channel
@every_network
def test_ddp_wraps_it(name, one_process):
    model, arguments = made(name)
    expected, _ = model(*arguments)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    output, _ = wrapped(*arguments)
    assert torch.equal(output, expected)
    output.square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view:UserWarning")  # NHWC is one
@every_network
def test_fsdp_wraps_it(name, one_process):
    model, arguments = made(name)
    expected, _ = model(*arguments)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    output, _ = model(*arguments)
    assert_close(output, expected)
    output.square().sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["classifier", "vqgan", "sundae", "maskgit", "halton"])
def test_export_keeps_the_outputs_even_after_an_engine_was_made(name):
    set_precision("float32")
    model, arguments = made(name)
    program = torch.export.export(model, arguments)
    assert_close(program.module()(*arguments)[0], model(*arguments)[0])


@pytest.mark.slow
@every_network
def test_compile_keeps_the_outputs(name):
    model, arguments = made(name)
    expected, _ = model(*arguments)
    torch.compiler.reset()  # the transformers share a forward function, and its compilations are limited
    assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(*arguments)[0], expected)


def test_every_block_is_compiled_however_many_kinds_there_are(monkeypatch):
    hparams = load(examples() / "vdvae" / "photos32.cfg", ["model.width=8"])
    family, model = methods_of(hparams), build_model(hparams)
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: compile_module(module, backend="eager"))
    torch.compiler.reset()
    with dynamo_config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        family.compile(model)
        model.bottom_up(torch.zeros(1, 32, 32, 3))


@pytest.fixture
def tf32(monkeypatch):
    """PyTorch's switches of a GPU, on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "tf32"
    yield switches
    for switch, precision in zip(switches, before, strict=True):
        switch.fp32_precision = precision


def test_threads_that_overlap_leave_the_precision_as_it_was(tf32):
    first, second = threading.Event(), threading.Event()

    def overlapping():
        with exact_float32:
            first.set()
            assert second.wait(60)

    with ThreadPoolExecutor(1) as pool:
        with exact_float32:
            other = pool.submit(overlapping)
            assert first.wait(60)
        assert {switch.fp32_precision for switch in tf32} == {"ieee"}
        second.set()
        other.result()
    assert {switch.fp32_precision for switch in tf32} == {"tf32"}
