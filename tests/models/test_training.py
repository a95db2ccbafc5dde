"""Training and compiling: parameters, types, less memory, several processes, one graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from inflate.models import Decoder, Encoder, VideoDecoder
from inflate.models.autoencoder import VideoAutoencoder
from inflate.models.blocks import GroupNorm, LayerNorm
from inflate.vocabulary import MERGE_STRATEGIES, TIME_MODES

from .builders import SMALL, TINY, latents, noise, randomized, video_decoder

every_mode = pytest.mark.parametrize("time_mode", TIME_MODES)
LEARNING = {"lr": 1e-3, "weight_decay": 0.1}


def autoencoder(time_mode: str = "all") -> VideoAutoencoder:
    config = {**SMALL, "ch_mult": [1]}
    decoder = VideoDecoder(time_mode=time_mode, **config)
    between = {"latent_channels": 4, "quant_conv": (8, 8), "post_quant_conv": (4, 4)}
    return randomized(VideoAutoencoder(decoder, Encoder(**config), **between))


def loss_of(decoder: nn.Module, z: Tensor, timesteps: int = 3) -> Tensor:
    out = decoder(z, timesteps=timesteps).float()
    return (out * noise(*out.shape, seed=1)).sum()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_finite(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.isfinite().all()


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that are saved for the backward pass, parameters left out."""

    def __init__(self, module: nn.Module) -> None:
        self.total = 0
        self._seen = {p.data_ptr() for p in module.parameters()}
        super().__init__(self._pack, lambda tensor: tensor)

    def __enter__(self) -> SavedBytes:
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in self._seen:
            self._seen.add(tensor.data_ptr())
            self.total += tensor.untyped_storage().nbytes()
        return tensor


# Parameters


@every_mode
def test_parameters_are_temporal_or_spatial(time_mode: str) -> None:
    image = set(Decoder(**SMALL).state_dict())
    decoder = video_decoder(time_mode)
    names = {id(p): name for name, p in decoder.named_parameters()}
    assert {names[id(p)] for p in decoder.spatial_parameters()} == image
    assert {names[id(p)] for p in decoder.temporal_parameters()} == set(names.values()) - image
    whole = autoencoder(time_mode)
    temporal = {id(p) for p in whole.temporal_parameters()}
    assert temporal == {id(p) for p in whole.decoder.temporal_parameters()}
    assert {id(p) for p in whole.spatial_parameters()} == {*map(id, whole.parameters())} - temporal


@every_mode
def test_frozen_spatial_layers_get_and_record_nothing(time_mode: str) -> None:
    whole, z = autoencoder(time_mode), latents()
    loss_of(whole, z).backward()
    with SavedBytes(whole) as unfrozen:
        loss_of(whole, z)
    whole.freeze_spatial()
    assert all(p.grad is None for p in whole.spatial_parameters())
    assert not whole.encode(noise(2, 3, 8, 8)).requires_grad
    assert not whole.decode(z, skip_video=True).requires_grad
    with SavedBytes(whole) as frozen:
        loss = loss_of(whole, z)
    assert frozen.total < unfrozen.total
    loss.backward()
    assert all(p.grad is None for p in whole.spatial_parameters())
    assert_finite(whole.temporal_parameters())


def test_groups_hold_each_trained_parameter_once_and_decay_neither_blends_nor_norms() -> None:
    whole = autoencoder()
    norms = [m for m in whole.modules() if isinstance(m, GroupNorm | LayerNorm)]
    kept = {id(p) for m in norms for p in m.parameters()}
    kept |= {id(p) for name, p in whole.named_parameters() if name.endswith("mix_factor")}
    for frozen in (False, True):
        if frozen:
            whole.freeze_spatial()
        decayed, others = whole.parameter_groups(**LEARNING)
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
        trained = {id(p) for p in whole.parameters() if p.requires_grad}
        assert sorted(map(id, others["params"])) == sorted(kept & trained)
        assert sorted(map(id, decayed["params"])) == sorted(trained - kept)
    before = {name: p.detach().clone() for name, p in whole.named_parameters()}
    optimiser = torch.optim.AdamW(whole.parameter_groups(**LEARNING))
    loss_of(whole, latents()).backward()
    optimiser.step()
    temporal = {id(p) for p in whole.temporal_parameters()}
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in temporal), name


# Gradient checkpointing


@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointing_gives_the_same_gradients_and_saves_less(frozen: bool) -> None:
    decoder, z = video_decoder("all", dropout=0.2).train(), latents()
    if frozen:
        decoder.freeze_spatial()
    found = []
    for enabled in (False, True):
        decoder.enable_gradient_checkpointing(enabled)
        decoder.zero_grad()
        torch.manual_seed(0)
        with SavedBytes(decoder) as saved:
            loss = loss_of(decoder, z)
        loss.backward()
        found.append((saved.total, gradients(decoder)))
    (plain, expected), (checkpointed, grads) = found
    assert checkpointed < plain / 2
    assert grads.keys() == expected.keys()
    assert all(torch.equal(grads[name], expected[name]) for name in expected)


# Types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_decoder_trains_in_half_precision(dtype: torch.dtype, autocast: bool) -> None:
    decoder = video_decoder("all").train()
    if autocast:
        decoder.enable_gradient_checkpointing()
    else:
        decoder.to(dtype)
        for module in decoder.modules():  # As files of ours may store the temporal ones.
            if dtype == torch.bfloat16 and isinstance(module, GroupNorm | LayerNorm):
                module.float()
    with torch.autocast("cpu", dtype, enabled=autocast):
        loss = loss_of(decoder, latents(dtype=torch.float32 if autocast else dtype))
    loss.backward()
    assert_finite(decoder.parameters())


# Videos with an axis of their own


@torch.no_grad()
def test_videos_of_five_axes_are_those_of_four() -> None:
    whole, images = autoencoder(), noise(2, 3, 3, 8, 6)
    z = whole.encode(images)
    assert torch.equal(z.flatten(0, 1), whole.encode(images.flatten(0, 1)))
    out = whole.decode(z)
    assert out.shape == images.shape
    assert torch.equal(out.flatten(0, 1), whole.decode(z.flatten(0, 1), timesteps=3))
    assert torch.equal(out, whole.decode(z, timesteps=3))
    assert whole.decode(z, chunk=2).shape == images.shape
    assert whole.decode(z, skip_video=True).shape == images.shape


@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 4, 5, 8, 8), (1, 2, 3, 4, 8, 8), (6, 5, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    whole = autoencoder()
    for run, name in ((whole.encode, "images"), (whole.decode, "latents")):
        with pytest.raises(ValueError, match=f"{name} have the shape"):
            run(noise(*shape))


# In two processes


def train(rank: int, folder: str) -> None:
    """One process of two, each with its own video."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    decoder = randomized(VideoDecoder(**TINY))
    decoder.freeze_spatial()
    decoder.enable_gradient_checkpointing()
    parallel = DistributedDataParallel(decoder)
    loss_of(parallel, latents(2, size=2).split(3)[rank]).backward()
    torch.save(gradients(decoder), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    multiprocessing.spawn(train, (str(tmp_path),), nprocs=2)
    decoder = randomized(VideoDecoder(**TINY))
    decoder.freeze_spatial()
    (sum(loss_of(decoder, video) for video in latents(2, size=2).split(3)) / 2).backward()
    for rank in range(2):
        grads = torch.load(tmp_path / f"{rank}.pt")
        assert grads.keys() == gradients(decoder).keys()
        for name, grad in gradients(decoder).items():
            torch.testing.assert_close(grads[name], grad, atol=1e-4, rtol=1e-4)


# Compiled


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@every_mode
@pytest.mark.parametrize("strategy", MERGE_STRATEGIES)
def test_compiles_to_one_graph_that_trains(time_mode: str, strategy: str) -> None:
    kernel = [3, 1, 1] if time_mode == "all" else 3
    blend = {"merge_strategy": strategy, "alpha": 0.3}
    decoder = VideoDecoder(time_mode=time_mode, video_kernel_size=kernel, **blend, **TINY)
    randomized(decoder, keep_mix=True).freeze_spatial()
    z = latents(1, size=2)
    with torch.no_grad():
        compiled = torch.compile(decoder, backend="eager", fullgraph=True)
        assert torch.equal(compiled(z, timesteps=3), decoder(z, timesteps=3))
    loss_of(decoder, z).backward()
    expected = gradients(decoder)
    decoder.zero_grad()
    loss_of(torch.compile(decoder, backend="aot_eager", fullgraph=True), z).backward()
    for name, grad in gradients(decoder).items():
        torch.testing.assert_close(grad, expected[name], atol=1e-3, rtol=1e-3)
