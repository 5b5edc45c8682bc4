from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.structure import counting
from secateur.structure.groups import find_groups
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from secateur.structure.surgery import Constant
from tiny_models import FAMILIES

MakeModel = Callable[..., PreTrainedModel]
Inputs = Callable[[PreTrainedModel], dict[str, Tensor]]


def cut(model: PreTrainedModel, kept: dict[str, object]) -> PreTrainedModel:
    groups = find_groups(model, width="width" in kept)
    return slice_model(model, PruningPlan.keep(groups, kept))


def test_the_units_that_stay_keep_their_weights(make_model: MakeModel) -> None:
    model = make_model("conformer")
    sliced = cut(model, {"layers.1.feed_forward2.units": [2, 5], "layers.1.self_attn.heads": [1, 2]})
    before, after = model.encoder.layers[1], sliced.encoder.layers[1]
    assert torch.equal(after.feed_forward2.linear1.weight, before.feed_forward2.linear1.weight[[2, 5]])
    assert torch.equal(after.feed_forward2.linear2.weight, before.feed_forward2.linear2.weight[:, [2, 5]])
    assert torch.equal(after.self_attn.q_proj.weight, before.self_attn.q_proj.weight[4:12])
    assert torch.equal(after.self_attn.o_proj.weight, before.self_attn.o_proj.weight[:, 4:12])
    assert torch.equal(after.self_attn.bias_u, before.self_attn.bias_u[1:3])


def test_a_key_dimension_goes_from_every_head(make_model: MakeModel) -> None:
    model = make_model("conformer")
    sliced = cut(model, {"layers.0.self_attn.query_key": [0, 3], "layers.0.self_attn.value": [1]})
    before, after = model.encoder.layers[0].self_attn, sliced.encoder.layers[0].self_attn
    rows = [head * 4 + unit for head in range(4) for unit in (0, 3)]
    assert torch.equal(after.relative_k_proj.weight, before.relative_k_proj.weight[rows])
    assert torch.equal(after.bias_v, before.bias_v[:, [0, 3]])
    assert torch.equal(after.v_proj.weight, before.v_proj.weight[1::4])
    assert (after.num_heads, after.qk_dim, after.v_dim) == (4, 2, 1)
    assert after.scaling == before.scaling == 4**-0.5


def test_both_halves_of_a_gated_linear_unit_lose_a_channel(make_model: MakeModel) -> None:
    model = make_model("parakeet")
    before, after = (
        model.encoder.layers[0].conv,
        cut(model, {"layers.0.conv.channels": [3, 7]}).encoder.layers[0].conv,
    )
    assert torch.equal(after.pointwise_conv1.weight, before.pointwise_conv1.weight[[3, 7, 19, 23]])
    assert torch.equal(after.norm.running_mean, before.norm.running_mean[[3, 7]])


def test_what_modules_say_of_themselves_follows(make_model: MakeModel) -> None:
    kept = {
        "subsampling.0.channels": range(4),
        "subsampling.3.channels": range(5),
        "layers.0.conv.channels": range(7),
        "layers.0.self_attn.heads": [2],
    }
    sliced = cut(make_model("parakeet", subsampling_factor=4), kept)
    _, _, depthwise, pointwise, _ = sliced.encoder.subsampling.layers
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (4, 4, 4)
    assert (pointwise.in_channels, pointwise.out_channels, pointwise.groups) == (4, 5, 1)
    assert sliced.encoder.subsampling.linear.in_features == 5 * 4
    conv, attention = sliced.encoder.layers[0].conv, sliced.encoder.layers[0].self_attn
    assert (conv.depthwise_conv.groups, conv.norm.num_features, conv.pointwise_conv1.out_channels) == (
        7,
        7,
        14,
    )
    assert (attention.config.num_attention_heads, attention.q_proj.out_features) == (1, 4)
    assert sliced.encoder.layers[1].self_attn.config.num_attention_heads == 4


def test_a_sliced_layer_still_follows_the_attention_implementation_of_its_model(
    make_model: MakeModel, inputs_for: Inputs
) -> None:
    sliced = cut(make_model("parakeet").float(), {"layers.0.self_attn.heads": [2, 3]})
    attention = copy.deepcopy(sliced).encoder.layers[0].self_attn
    assert attention.config.num_attention_heads == 2
    logits = {}
    for implementation in ("sdpa", "eager"):
        sliced.set_attn_implementation(implementation)
        assert sliced.encoder.layers[0].self_attn.config._attn_implementation == implementation
        logits[implementation] = sliced(**inputs_for(sliced)).logits
    torch.testing.assert_close(logits["sdpa"], logits["eager"], rtol=1e-4, atol=1e-4)


def test_a_module_without_units_is_its_bias_and_needs_no_norm(make_model: MakeModel) -> None:
    model = make_model("conformer")
    layer = cut(model, {"layers.0.conv.channels": []}).encoder.layers[0]
    assert isinstance(layer.conv, Constant)
    assert isinstance(layer.norm_conv, nn.Identity)
    assert torch.equal(layer.conv.bias, model.encoder.layers[0].conv.pointwise_conv2.bias)


def test_a_module_that_goes_leaves_no_parameter(make_model: MakeModel) -> None:
    sliced = cut(make_model("wav2vec2", do_stable_layer_norm=True), {"layers.0.attention": []})
    layer = sliced.wav2vec2.encoder.layers[0]
    assert not list(layer.attention.parameters())
    assert isinstance(layer.layer_norm, nn.Identity)


def test_a_norm_behind_the_sum_outlives_its_module(make_model: MakeModel) -> None:
    layer = cut(make_model("wav2vec2"), {"layers.0.attention": []}).wav2vec2.encoder.layers[0]
    assert isinstance(layer.layer_norm, nn.LayerNorm)


def test_layers_close_up_and_the_configuration_counts_them(make_model: MakeModel) -> None:
    model = make_model("parakeet", layers=3)
    sliced = cut(model, {"layers.1": []})
    assert len(sliced.encoder.layers) == sliced.config.encoder_config.num_hidden_layers == 2
    assert torch.equal(sliced.encoder.layers[1].norm_out.weight, model.encoder.layers[2].norm_out.weight)


def test_each_layer_reads_columns_of_its_own_of_the_table_of_positions(make_model: MakeModel) -> None:
    model = make_model("conformer", layers=2)
    once = cut(model, {"layers.0.self_attn.positions": range(0, 16, 2), "layers.1.self_attn.positions": [5]})
    # What it remembers of the columns that it read is not those of a model that is cut once more.
    table = torch.zeros(3, 16, dtype=model.dtype)
    assert once.encoder.layers[0].self_attn.relative_k_proj(table).shape[0] == 3
    twice = cut(once, {"layers.0.self_attn.positions": [1, 3]})
    for index, columns in enumerate([[2, 6], [5]]):
        before, after = (each.encoder.layers[index].self_attn.relative_k_proj for each in (model, twice))
        assert after.columns == columns
        assert after(table).shape == before(table).shape
        assert torch.equal(after.weight, before.weight[:, columns])
    # The table is as wide as it was, however wide the residual stream is.
    narrower = cut(model, {"width": range(0, 16, 2)})
    assert narrower.encoder.layers[0].self_attn.relative_k_proj.in_features == 16


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_stays_as_it_was(make_model: MakeModel, family: str) -> None:
    model = make_model(family, layers=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = next(name for name in find_groups(model) if name.endswith("units"))
    kept = {name: [0, 1], "layers.2": []}
    sliced = cut(model, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in sliced.parameters()}
    assert counting.parameters(model) > counting.parameters(sliced)


def test_a_sliced_model_can_be_trained(make_model: MakeModel, inputs_for: Inputs) -> None:
    sliced = cut(make_model("conformer"), {"layers.0.conv.channels": [], "layers.1.self_attn.value": [0, 1]})
    sliced(**inputs_for(sliced)).logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in sliced.parameters())
