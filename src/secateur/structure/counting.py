"""What a model really has and does: its parameters and multiply-accumulates, counted on the model itself."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from secateur.errors import SecateurError

FRAMES_PER_SECOND = 100
"""Feature frames of models that hear mel features: a hop of 10 ms, as NeMo's and transformers' extractors have it.

`secateur.load` refuses models that are given more or fewer a second, for which no count of what they do would be true.
"""

SAMPLES_PER_SECOND = 16000
"""Samples of models that hear the waveform itself."""


def parameters(model: nn.Module) -> int:
    """Trainable numbers in a model; one that two modules share counts once, buffers do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def weights_digest(model: nn.Module) -> str:
    """Twelve hexadecimal digits that tell a model's weights from others of the same shapes."""
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def macs(model: PreTrainedModel, seconds: float) -> int:
    """Multiply-accumulates of the matrix products and convolutions for one utterance of ``seconds``, not padded.

    What is elementwise (norms, activations, softmax, biases) is not counted, as everywhere in the field; a convolution
    counts all its taps at its edges too. The model may be sliced in any way; neither it nor memory is touched.
    """
    return macs_by_module(model, seconds)[""]


def macs_by_module(model: PreTrainedModel, seconds: float) -> dict[str, int]:
    """Multiply-accumulates of every module that was called, those of its children included.

    Names are those of ``model.named_modules()``, hence ``""`` is the whole model. See `macs` for what is counted.

    Raises:
        SecateurError: the utterance is too short to give the model one frame, or longer than can be counted.
    """
    skeleton = _skeleton(model)
    # What a forward pass makes anew, such as sinusoids, is a shape alone too.
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            skeleton(**example_input(skeleton, seconds))
        except RuntimeError as error:
            too, instead = ("short", "1 s or more") if seconds < 1 else ("long", "a day or less")
            raise SecateurError(
                f"{seconds:g} s of audio are too {too} for {type(model).__name__} to hear: give {instead}"
            ) from error
    root = type(skeleton).__name__
    flops = {
        name.removeprefix(root).removeprefix("."): sum(by_operation.values())
        for name, by_operation in counter.get_flop_counts().items()
        if name != "Global"
    }
    # The counter's unit is the floating-point operation, two to a multiply-accumulate.
    return {"": counter.get_total_flops() // 2} | {name: count // 2 for name, count in flops.items()}


def inputs_per_second(model: PreTrainedModel) -> int:
    """Feature frames, or samples, that a second of audio counts as."""
    return FRAMES_PER_SECOND if model.main_input_name == "input_features" else SAMPLES_PER_SECOND


def example_input(model: PreTrainedModel, seconds: float, batch: int = 1) -> dict[str, Tensor]:
    """Zeros in the shape, on the device and in the precision that ``model`` hears, without padding.

    [batch, frames, mel bins] for models of mel features, [batch, samples] for models of waveforms.
    """
    config = getattr(model.config, "encoder_config", model.config)
    shape: tuple[int, ...] = (batch, round(seconds * inputs_per_second(model)))
    if model.main_input_name == "input_features":
        shape = (*shape, config.num_mel_bins)
    return {model.main_input_name: torch.zeros(shape, dtype=model.dtype, device=model.device)}


def noise_input(model: PreTrainedModel, seconds: float, batch: int = 1) -> dict[str, Tensor]:
    """Noise of the same shape, all of it to be heard: with zeros some processors are faster."""
    zeros = example_input(model, seconds, batch)[model.main_input_name]
    noise = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0)).to(zeros)
    mask = torch.ones(zeros.shape[:2], dtype=torch.bool, device=zeros.device)
    return {model.main_input_name: noise, "attention_mask": mask}


def _skeleton(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules with shapes in place of numbers, in evaluation mode and with attention written out.

    The counter misses the positions' half of relative attention inside the fused kernels.
    """
    shapes: dict[int, object] = {}
    for parameter in model.parameters():
        shapes[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        shapes[id(buffer)] = torch.empty_like(buffer, device="meta")
    for module in model.modules():
        # What a forward pass left there for the next one.
        kept = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        shapes |= {id(value): torch.empty_like(value, device="meta") for value in kept}
    skeleton = copy.deepcopy(model, shapes).eval()
    for module in skeleton.modules():
        # A sliced layer carries a configuration of its own.
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            config._attn_implementation = "eager"
    return skeleton
