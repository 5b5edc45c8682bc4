from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn
from transformers import PreTrainedModel, Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForSequenceClassification

from secateur.errors import SecateurError
from secateur.structure import families
from secateur.structure.axes import Axis
from secateur.structure.groups import find_groups, fingerprint
from secateur.structure.plan import PruningPlan
from secateur.structure.slicing import slice_model
from tiny_models import FAMILIES

MakeModel = Callable[..., PreTrainedModel]


def test_every_table_has_a_tiny_model_that_all_else_is_tried_on() -> None:
    assert {table.name for table in families.FAMILIES} == set(FAMILIES)


def test_a_conformer_has_the_groups_of_its_layers_and_of_its_front_end(make_model: MakeModel) -> None:
    groups = find_groups(make_model("conformer", layers=1))
    assert {name: group.size for name, group in groups.items()} == {
        "subsampling.0.channels": 6,
        "subsampling.2.channels": 6,
        "layers.0": 1,
        "layers.0.feed_forward1": 1,
        "layers.0.feed_forward1.units": 20,
        "layers.0.self_attn": 1,
        "layers.0.self_attn.heads": 4,
        "layers.0.self_attn.query_key": 4,
        "layers.0.self_attn.value": 4,
        "layers.0.self_attn.positions": 16,
        "layers.0.conv": 1,
        "layers.0.conv.channels": 16,
        "layers.0.feed_forward2": 1,
        "layers.0.feed_forward2.units": 20,
    }


def test_other_families_give_up_whole_heads_and_what_their_front_ends_can(make_model: MakeModel) -> None:
    parakeet, wav2vec2 = (
        find_groups(make_model("parakeet", layers=1)),
        find_groups(make_model("wav2vec2", layers=1)),
    )
    assert [name for name in parakeet if "layers" not in name] == [
        f"subsampling.{k}.channels" for k in (0, 3, 6)
    ]
    assert [name for name in parakeet if "self_attn." in name] == ["layers.0.self_attn.heads"]
    assert list(wav2vec2) == [
        *(f"feature_extractor.{k}.channels" for k in range(3)),
        "layers.0",
        "layers.0.attention",
        "layers.0.attention.heads",
        "layers.0.feed_forward",
        "layers.0.feed_forward.units",
    ]


def test_a_gate_sits_where_the_units_are_consumed(make_model: MakeModel) -> None:
    groups = find_groups(make_model("conformer"))

    def where(name: str) -> list[tuple[str, str]]:
        return [(site.module.removeprefix("encoder."), site.side) for site in groups[name].sites]

    assert where("subsampling.0.channels") == [("subsampling.layers.2", "input")]
    assert where("subsampling.2.channels") == [("subsampling.linear", "input")]
    assert where("layers.1.feed_forward1.units") == [("layers.1.feed_forward1.linear2", "input")]
    assert where("layers.1.self_attn.heads") == [("layers.1.self_attn.o_proj", "input")]
    assert where("layers.1.self_attn.query_key") == [
        ("layers.1.self_attn.k_proj", "output"),
        ("layers.1.self_attn.relative_k_proj", "output"),
    ]
    assert where("layers.1.self_attn.positions") == [("layers.1.self_attn.relative_k_proj", "input")]
    assert where("layers.1.conv.channels") == [("layers.1.conv.pointwise_conv2", "input")]
    assert where("layers.1.conv") == [("layers.1.conv", "output")]
    assert where("layers.1") == [("layers.1", "layer")]
    assert groups["layers.1.self_attn.heads"].sites[0].dim == (
        Axis(4, "layers.1.self_attn.heads"),
        Axis(4, "layers.1.self_attn.value"),
    )


def test_a_group_knows_the_module_and_the_layer_that_hold_it(make_model: MakeModel) -> None:
    groups = find_groups(make_model("wav2vec2"), width=True)
    assert groups["layers.1.attention.heads"].inside == ("layers.1", "layers.1.attention")
    assert groups["layers.1.attention"].inside == ("layers.1",)
    assert groups["layers.1"].inside == groups["feature_extractor.0.channels"].inside == ()


def test_the_residual_width_is_offered_only_when_asked_for(make_model: MakeModel) -> None:
    model = make_model("conformer", layers=2)
    assert "width" not in find_groups(model)
    width = find_groups(model, width=True)["width"]
    assert width.size == 16
    assert width.inside == ()
    norms = [site.module for site in width.sites if site.side == "norm"]
    assert norms == [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert "width" not in find_groups(make_model("parakeet"), width=True)


def test_counts_can_be_held_to_multiples_and_heads_and_layers_to_a_minimum(make_model: MakeModel) -> None:
    groups = find_groups(make_model("conformer"), multiple_of=8, min_heads=2, min_layers=2)
    assert groups["layers.0.feed_forward1.units"].counts() == [0, 8, 16, 20]
    assert groups["layers.0.self_attn.heads"].counts() == [2, 3, 4]
    assert groups["subsampling.0.channels"].counts() == [6]
    # Attention that must keep heads is not removed as a whole, nor is a layer that it is in; other modules are.
    assert groups["layers.0.self_attn"].counts() == groups["layers.0"].counts() == [1]
    assert groups["layers.0.feed_forward1"].counts() == [0, 1]
    groups = find_groups(make_model("conformer"), min_layers=2)
    with pytest.raises(SecateurError, match="keeps 1 layers; at least 2 must stay"):
        PruningPlan.keep(groups, {"layers.0": []})


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_that_stay_whole_are_by_name_or_pattern(make_model: MakeModel, family: str) -> None:
    model = make_model(family, layers=3)
    everything = find_groups(model)
    groups = find_groups(model, whole=["layers.0.*", "layers.1.*.heads"])
    heads = next(name for name in everything if name.startswith("layers.1.") and name.endswith(".heads"))
    # What holds the units of a module that stays is not removed either.
    stay = {"layers.1", heads, heads.removesuffix(".heads")}
    rest = [name for name in everything if not name.startswith("layers.0") and name not in stay]
    assert [name for name, group in groups.items() if len(group.counts()) > 1] == rest
    for name in rest:
        assert groups[name].counts() == everything[name].counts()
    with pytest.raises(SecateurError):
        PruningPlan.keep(groups, {"layers.0": []})
    plan = PruningPlan.keep(groups, {"layers.2": []})
    kept = find_groups(slice_model(model, plan))
    assert kept["layers.0"].size == 1
    assert len(kept.layers) == 2


def test_a_module_that_stays_keeps_a_unit(make_model: MakeModel) -> None:
    """Without a bias nothing is left of one that has none."""
    model = make_model("parakeet", convolution_bias=False)
    groups = find_groups(model, whole=["layers.0.conv"])
    assert groups["layers.0.conv.channels"].min_units == 1
    assert groups["layers.1.conv.channels"].min_units == 0
    with pytest.raises(SecateurError, match="keeps 0 units of layers.0.conv.channels; at least 1 must stay"):
        PruningPlan.keep(groups, {"layers.0.conv.channels": []})


def test_a_group_that_there_is_not_cannot_stay_whole(make_model: MakeModel) -> None:
    with pytest.raises(
        SecateurError, match=r"no group head\* that could .* the model has layers\.\*, .*heads"
    ):
        find_groups(make_model("conformer"), whole=["head*"])


def test_a_sliced_model_has_the_groups_that_are_left(make_model: MakeModel) -> None:
    model = make_model("parakeet", layers=3)
    plan = PruningPlan.keep(
        find_groups(model),
        {
            "layers.0": [],
            "layers.1.feed_forward1.units": [3, 4],
            "layers.1.self_attn.heads": [],
            "layers.2.conv": [],
            "layers.2.self_attn.heads": [1],
        },
    )
    groups = find_groups(slice_model(model, plan))
    assert list(groups.layers) == ["layers.0", "layers.1"]
    assert groups["layers.0.feed_forward1.units"].size == 2
    assert groups["layers.1.self_attn.heads"].size == 1
    # A module reduced to its bias can still go; it has no units.
    assert "layers.0.self_attn" in groups
    assert "layers.0.self_attn.heads" not in groups
    assert "layers.1.conv" not in groups


def test_the_fingerprint_tells_architectures_apart_and_weights_not(make_model: MakeModel) -> None:
    first, same = make_model("conformer", seed=1), make_model("conformer", seed=2)
    other = make_model("conformer", units=21)
    assert fingerprint(first) == fingerprint(same) != fingerprint(other)


def test_a_family_without_a_table_is_refused_by_name() -> None:
    config = Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(SecateurError, match="a Wav2Vec2ForSequenceClassification can be .* and not pruned"):
        find_groups(Wav2Vec2ForSequenceClassification(config))


def test_a_variant_with_unknown_parameters_is_refused_by_their_name() -> None:
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        add_adapter=True,
        vocab_size=7,
    )
    with pytest.raises(SecateurError, match=r"the parameter wav2vec2\.adapter.* is unknown to the table"):
        find_groups(Wav2Vec2ForCTC(config))
