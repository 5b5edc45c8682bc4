"""The family tables: what each tensor of a supported model counts along each dimension, and what follows from it.

A model family is one `Family`: supporting a new one means writing its table here, and no code elsewhere. Groups, slicing,
masks, parameters and multiply-accumulates all derive from it.

In a pattern ``{i}`` stands for a number and ``{ff:feed_forward1|feed_forward2}`` for one of some names; what they match
fills the same braces in the names of groups. In an expression an axis that is listed in ``units`` may shrink, every
other one (``taps``, ``freq``, ``vocabulary``) stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Units:
    """A group of units along one axis.

    Attributes:
        axis: the axis, as the tensor expressions name it.
        kind: what a unit is, in words.
        outputs_of: modules whose output is multiplied by the gate; by default it is the input of every module whose
            weight has the axis in its second dimension, which is to say, of the modules that consume the units.
        min_units: units that must stay, because the model cannot run without.
        aligned: whether a multiple can be asked of their number.
        on_request: offered only when asked for.
    """

    axis: str
    kind: str
    outputs_of: tuple[str, ...] = ()
    min_units: int = 0
    aligned: bool = True
    on_request: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """A module on a residual branch, which can be left out whole.

    Attributes:
        path: the module.
        norm: the norm that only this module reads, and that goes with it; None if the norm stands after the sum.
        pair: the module returns its output as the first of a pair.
    """

    path: str
    norm: str | None = None
    pair: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """The table of a model family.

    Attributes:
        name: written into plans.
        model: class of the models, by name.
        where: settings of their configuration that this table is for.
        tensors: expression of a module's weight by module (its bias and its running statistics have the first
            dimension), or of a parameter by its own name.
        units: groups along an axis, by group name.
        branches: groups of one unit, by group name: a whole module.
        layers: the module list whose members are groups of one unit, ``layers.{i}``.
        layer_count: where the configuration has their number.
        attributes: numbers that modules hold, by module and attribute, as expressions.
        selects: modules whose input is no pruned stream but a constant table, of which they read the kept columns.
        products: pairs of modules whose outputs meet: one multiply-accumulate for every output of the second module and
            every pair of their positions.
    """

    name: str
    model: str
    where: Mapping[str, object] = field(default_factory=dict)
    tensors: Mapping[str, str]
    units: Mapping[str, Units]
    branches: Mapping[str, Branch]
    layers: str
    layer_count: str
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    selects: tuple[str, ...] = ()
    products: tuple[tuple[str, str], ...] = ()


LAYER = "encoder.layers.{i}"

# The blocks of our Conformer and of Parakeet bear the same names.
CONFORMER_LAYER = {
    f"{LAYER}.{{ff:feed_forward1|feed_forward2}}.linear1": "units width",
    f"{LAYER}.{{ff:feed_forward1|feed_forward2}}.linear2": "width units",
    f"{LAYER}.self_attn.q_proj": "(heads qk) width",
    f"{LAYER}.self_attn.k_proj": "(heads qk) width",
    f"{LAYER}.self_attn.v_proj": "(heads v) width",
    f"{LAYER}.self_attn.o_proj": "width (heads v)",
    f"{LAYER}.self_attn.relative_k_proj": "(heads qk) width",
    f"{LAYER}.self_attn.bias_u": "heads qk",
    f"{LAYER}.self_attn.bias_v": "heads qk",
    f"{LAYER}.conv.pointwise_conv1": "(2 channels) width 1",
    f"{LAYER}.conv.depthwise_conv": "channels 1 taps",
    f"{LAYER}.conv.norm": "channels",
    f"{LAYER}.conv.pointwise_conv2": "width channels 1",
    f"{LAYER}.{{norm:norm_\\w+}}": "width",
    # What is left of a module that lost all its units.
    f"{LAYER}.{{module:feed_forward1|self_attn|conv|feed_forward2}}.bias": "width",
}

STRIDING = {
    "encoder.subsampling.layers.{k:0}": "maps[k] 1 taps taps",
    "encoder.subsampling.layers.{k}": "maps[k] maps[k-2] taps taps",
    "encoder.subsampling.linear": "width (maps[-1] freq)",
}

# After the first convolution: depthwise (at k - 1) and pointwise (at k) in turn, with a ReLU behind the pointwise.
SEPARABLE = {
    "encoder.subsampling.layers.{k:0}": "maps[k] 1 taps taps",
    "encoder.subsampling.layers.{k:2|5|8|11}": "maps[k-2] 1 taps taps",
    "encoder.subsampling.layers.{k:3|6|9|12}": "maps[k] maps[k-3] 1 1",
    "encoder.subsampling.linear": "width (maps[-1] freq)",
}

CONFORMER_UNITS = {
    "subsampling.{k}.channels": Units("maps", "subsampling channels", min_units=1),
    "layers.{i}.{ff}.units": Units("units", "feed-forward units"),
    "layers.{i}.self_attn.heads": Units("heads", "attention heads", aligned=False),
    "layers.{i}.conv.channels": Units("channels", "convolution channels"),
}

# Queries meet keys, relative positions, and (as attention weights) values.
CONFORMER_PRODUCTS = (
    (f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.k_proj"),
    (f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.relative_k_proj"),
    (f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.v_proj"),
)


def conformer(subsampling: str, front_end: Mapping[str, str]) -> Family:
    """Our own Conformer, with one or the other kind of subsampling."""
    return Family(
        name="conformer",
        model="ConformerForCTC",
        where={"subsampling": subsampling},
        tensors={**front_end, **CONFORMER_LAYER, "ctc_head": "vocabulary width"},
        units={
            **CONFORMER_UNITS,
            # Without any key dimension attention would be a plain mean; without any value its heads should go.
            "layers.{i}.self_attn.query_key": Units(
                "qk",
                "query/key width",
                # Either product of queries and keys, biases included, loses the dimension with the key's.
                outputs_of=(f"{LAYER}.self_attn.k_proj", f"{LAYER}.self_attn.relative_k_proj"),
                min_units=1,
            ),
            "layers.{i}.self_attn.value": Units("v", "value width", min_units=1),
            "width": Units("width", "residual width", min_units=1, on_request=True),
        },
        branches={
            "layers.{i}.{ff}": Branch(
                f"{LAYER}.{{ff:feed_forward1|feed_forward2}}", norm=f"{LAYER}.norm_{{ff}}"
            ),
            "layers.{i}.self_attn": Branch(f"{LAYER}.self_attn", norm=f"{LAYER}.norm_self_att"),
            "layers.{i}.conv": Branch(f"{LAYER}.conv", norm=f"{LAYER}.norm_conv"),
        },
        layers="encoder.layers",
        layer_count="num_hidden_layers",
        attributes={f"{LAYER}.self_attn": {"num_heads": "heads", "qk_dim": "qk", "v_dim": "v"}},
        selects=(f"{LAYER}.self_attn.relative_k_proj",),
        products=CONFORMER_PRODUCTS,
    )


# transformers' Parakeet has one width for queries, keys and values, the same in all heads: only whole heads go.
PARAKEET = Family(
    name="parakeet",
    model="ParakeetForCTC",
    tensors={**SEPARABLE, **CONFORMER_LAYER, "ctc_head": "vocabulary width 1"},
    units=CONFORMER_UNITS,
    branches={
        "layers.{i}.{ff}": Branch(f"{LAYER}.{{ff:feed_forward1|feed_forward2}}", norm=f"{LAYER}.norm_{{ff}}"),
        "layers.{i}.self_attn": Branch(f"{LAYER}.self_attn", norm=f"{LAYER}.norm_self_att", pair=True),
        "layers.{i}.conv": Branch(f"{LAYER}.conv", norm=f"{LAYER}.norm_conv"),
    },
    layers="encoder.layers",
    layer_count="encoder_config.num_hidden_layers",
    attributes={f"{LAYER}.self_attn": {"config.num_attention_heads": "heads"}},
    products=CONFORMER_PRODUCTS,
)


def wav2vec2(*, stable_layer_norm: bool) -> Family:
    """wav2vec 2.0 with norms before its modules (stable) or, as in the base model, after each residual sum.

    One width for queries, keys and values, as in Parakeet. The channels that the feature encoder hands over stay: the
    projection's norm is the model's own notion of a feature vector.
    """
    model, layer = "wav2vec2", "wav2vec2.encoder.layers.{i}"
    return Family(
        name="wav2vec2",
        model="Wav2Vec2ForCTC",
        where={"do_stable_layer_norm": stable_layer_norm},
        tensors={
            f"{model}.masked_spec_embed": "width",
            f"{model}.feature_extractor.conv_layers.{{k:0}}.conv": "maps[k] 1 taps",
            f"{model}.feature_extractor.conv_layers.{{k}}.conv": "maps[k] maps[k-1] taps",
            f"{model}.feature_extractor.conv_layers.{{k}}.layer_norm": "maps[k]",
            f"{model}.feature_projection.layer_norm": "features",
            f"{model}.feature_projection.projection": "width features",
            f"{model}.encoder.pos_conv_embed.conv": "width",
            f"{model}.encoder.pos_conv_embed.conv.parametrizations.weight.original0": "1 1 taps",
            f"{model}.encoder.pos_conv_embed.conv.parametrizations.weight.original1": "width inputs taps",
            f"{model}.encoder.layer_norm": "width",
            f"{layer}.{{projection:attention.q_proj|attention.k_proj|attention.v_proj}}": "(heads qk) width",
            f"{layer}.attention.out_proj": "width (heads qk)",
            f"{layer}.feed_forward.intermediate_dense": "units width",
            f"{layer}.feed_forward.output_dense": "width units",
            f"{layer}.{{norm:layer_norm|final_layer_norm}}": "width",
            f"{layer}.{{module:attention|feed_forward}}.bias": "width",
            "lm_head": "vocabulary width",
        },
        units={
            "feature_extractor.{k}.channels": Units("maps", "feature encoder channels", min_units=1),
            "layers.{i}.attention.heads": Units("heads", "attention heads", aligned=False),
            "layers.{i}.feed_forward.units": Units("units", "feed-forward units"),
        },
        branches={
            "layers.{i}.attention": Branch(
                f"{layer}.attention", norm=f"{layer}.layer_norm" if stable_layer_norm else None, pair=True
            ),
            "layers.{i}.feed_forward": Branch(
                f"{layer}.feed_forward", norm=f"{layer}.final_layer_norm" if stable_layer_norm else None
            ),
        },
        layers="wav2vec2.encoder.layers",
        layer_count="num_hidden_layers",
        attributes={f"{layer}.attention": {"num_heads": "heads"}},
        products=(
            (f"{layer}.attention.q_proj", f"{layer}.attention.k_proj"),
            (f"{layer}.attention.q_proj", f"{layer}.attention.v_proj"),
        ),
    )


FAMILIES = (
    conformer("striding", STRIDING),
    conformer("dw_striding", SEPARABLE),
    PARAKEET,
    wav2vec2(stable_layer_norm=False),
    wav2vec2(stable_layer_norm=True),
)
"""Every supported family, each table tried in turn."""
