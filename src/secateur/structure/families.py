"""The family tables: what each tensor of a supported model counts along each dimension, and what follows from it.

A model family is one `Family`: supporting a new one means writing its table here, and no code elsewhere. Groups, slicing,
masks, parameters and multiply-accumulates all derive from it.

In a pattern ``{i}`` stands for a number and ``{ff:feed_forward1|feed_forward2}`` for one of some names; what they match
fills the same braces in the names of groups. In an expression an axis that is listed in ``units`` may shrink, every
other one (``taps``, ``freq``, ``vocabulary``) stays as it is. Of an axis that comes in several, ``maps[k-2]`` is the one
that was numbered k - 2, and ``maps[-1]`` the last.

A layer norm over an axis that shrinks takes its mean and variance over the units that stay, masked and sliced alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from secateur.structure.family import Branch, Family, Units


def under(prefix: str, table: Mapping[str, str]) -> dict[str, str]:
    """The rows of a table, their names below a common prefix."""
    return {f"{prefix}.{name}": expression for name, expression in table.items()}


# The layers of our Conformer and of Parakeet bear the same names.
CONFORMER_LAYERS = under(
    "encoder.layers.{i}",
    {
        "{ff:feed_forward1|feed_forward2}.linear1": "units width",
        "{ff:feed_forward1|feed_forward2}.linear2": "width units",
        "self_attn.q_proj": "(heads qk) width",
        "self_attn.k_proj": "(heads qk) width",
        "self_attn.v_proj": "(heads v) width",
        "self_attn.o_proj": "width (heads v)",
        "self_attn.relative_k_proj": "(heads qk) positions",
        "self_attn.bias_u": "heads qk",
        "self_attn.bias_v": "heads qk",
        "conv.pointwise_conv1": "(2 channels) width 1",
        "conv.depthwise_conv": "channels 1 taps",
        "conv.norm": "channels",
        "conv.pointwise_conv2": "width channels 1",
        "{norm:norm_[a-z0-9_]+}": "width",
        # What is left of a module that lost all its units.
        "{module:feed_forward1|self_attn|conv|feed_forward2}.bias": "width",
    },
)

STRIDING = under(
    "encoder.subsampling",
    {
        "layers.{k:0}": "maps[k] 1 taps taps",
        "layers.{k}": "maps[k] maps[k-2] taps taps",
        "linear": "width (maps[-1] freq)",
    },
)

# Behind the first convolution: a depthwise one, a pointwise one that is numbered next, a ReLU, and so on.
SEPARABLE = under(
    "encoder.subsampling",
    {
        "layers.{k:0}": "maps[k] 1 taps taps",
        "layers.{k:2|5|8|11}": "maps[k-2] 1 taps taps",
        "layers.{k:3|6|9|12}": "maps[k] maps[k-3] 1 1",
        "linear": "width (maps[-1] freq)",
    },
)

CONFORMER_UNITS = {
    "subsampling.{k}.channels": Units("maps", "subsampling channels", min_units=1),
    "layers.{i}.{ff}.units": Units("units", "feed-forward units"),
    "layers.{i}.self_attn.heads": Units("heads", "attention heads", aligned=False),
    "layers.{i}.conv.channels": Units("channels", "convolution channels"),
}

# Queries meet keys, relative positions, and (as attention weights) values.
CONFORMER_PRODUCTS = (
    ("encoder.layers.{i}.self_attn.q_proj", "encoder.layers.{i}.self_attn.k_proj"),
    ("encoder.layers.{i}.self_attn.q_proj", "encoder.layers.{i}.self_attn.relative_k_proj"),
    ("encoder.layers.{i}.self_attn.q_proj", "encoder.layers.{i}.self_attn.v_proj"),
)


def conformer_branches(*, pair: bool) -> dict[str, Branch]:
    """The modules of a Conformer layer; ``pair``: whether attention returns its weights too."""
    layer = "encoder.layers.{i}"
    return {
        "layers.{i}.{ff}": Branch(
            layer + ".{ff:feed_forward1|feed_forward2}", norm=layer + ".norm_{ff}", scale=0.5
        ),
        "layers.{i}.self_attn": Branch(layer + ".self_attn", norm=layer + ".norm_self_att", pair=pair),
        "layers.{i}.conv": Branch(layer + ".conv", norm=layer + ".norm_conv"),
    }


def conformer(subsampling: str, front_end: Mapping[str, str]) -> Family:
    """Our own Conformer, with one or the other kind of subsampling."""
    return Family(
        name="conformer",
        model="ConformerForCTC",
        where={"subsampling": subsampling},
        tensors={**front_end, **CONFORMER_LAYERS, "ctc_head": "vocabulary width"},
        units={
            **CONFORMER_UNITS,
            # Without its key's dimension a query's counts for nothing, in the content term and in the position term.
            # One must stay in each head: for a module without any, drop the heads.
            "layers.{i}.self_attn.query_key": Units(
                "qk",
                "query/key width",
                outputs_of=(
                    "encoder.layers.{i}.self_attn.k_proj",
                    "encoder.layers.{i}.self_attn.relative_k_proj",
                ),
                min_units=1,
            ),
            "layers.{i}.self_attn.value": Units("v", "value width", min_units=1),
            # Sines and cosines of the distance: a layer reads those that it keeps of the table that all share.
            "layers.{i}.self_attn.positions": Units("positions", "position features", min_units=1),
            "width": Units("width", "residual width", min_units=1, on_request=True),
        },
        branches=conformer_branches(pair=False),
        layers="encoder.layers",
        layer_count="num_hidden_layers",
        closing="norm_out",
        attributes={"encoder.layers.{i}.self_attn": {"num_heads": "heads", "qk_dim": "qk", "v_dim": "v"}},
        selects=("encoder.layers.{i}.self_attn.relative_k_proj",),
        products=CONFORMER_PRODUCTS,
    )


# transformers' Parakeet has one width for queries, keys and values, the same in all heads: only whole heads go. Its head
# and its table of positions are written for the dense residual width, which stays.
PARAKEET = Family(
    name="parakeet",
    model="ParakeetForCTC",
    tensors={**SEPARABLE, **CONFORMER_LAYERS, "ctc_head": "vocabulary width 1"},
    units=CONFORMER_UNITS,
    branches=conformer_branches(pair=True),
    layers="encoder.layers",
    layer_count="encoder_config.num_hidden_layers",
    closing="norm_out",
    attributes={"encoder.layers.{i}.self_attn": {"config.num_attention_heads": "heads"}},
    products=CONFORMER_PRODUCTS,
)


def wav2vec2(*, stable_layer_norm: bool) -> Family:
    """wav2vec 2.0 with norms before its modules (stable) or, as in the base model, after each residual sum.

    Here too only whole heads go, and the residual width stays.
    """
    layer = "wav2vec2.encoder.layers.{i}"
    before = stable_layer_norm
    return Family(
        name="wav2vec2",
        model="Wav2Vec2ForCTC",
        where={"do_stable_layer_norm": stable_layer_norm},
        tensors={
            "wav2vec2.masked_spec_embed": "width",
            **under(
                "wav2vec2.feature_extractor.conv_layers",
                {
                    "{k:0}.conv": "maps[k] 1 taps",
                    "{k}.conv": "maps[k] maps[k-1] taps",
                    "{k}.layer_norm": "maps[k]",
                },
            ),
            "wav2vec2.feature_projection.layer_norm": "maps[-1]",
            "wav2vec2.feature_projection.projection": "width maps[-1]",
            "wav2vec2.encoder.pos_conv_embed.conv": "width",
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0": "1 1 taps",
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1": "width inputs taps",
            "wav2vec2.encoder.layer_norm": "width",
            **under(
                layer,
                {
                    "attention.{projection:q_proj|k_proj|v_proj}": "(heads qk) width",
                    "attention.out_proj": "width (heads qk)",
                    "feed_forward.intermediate_dense": "units width",
                    "feed_forward.output_dense": "width units",
                    "{norm:layer_norm|final_layer_norm}": "width",
                    "{module:attention|feed_forward}.bias": "width",
                },
            ),
            "lm_head": "vocabulary width",
        },
        units={
            "feature_extractor.{k}.channels": Units("maps", "feature encoder channels", min_units=1),
            "layers.{i}.attention.heads": Units("heads", "attention heads", aligned=False),
            "layers.{i}.feed_forward.units": Units("units", "feed-forward units"),
        },
        branches={
            "layers.{i}.attention": Branch(
                f"{layer}.attention", norm=f"{layer}.layer_norm" if before else None, pair=True
            ),
            "layers.{i}.feed_forward": Branch(
                f"{layer}.feed_forward", norm=f"{layer}.final_layer_norm" if before else None
            ),
        },
        layers="wav2vec2.encoder.layers",
        layer_count="num_hidden_layers",
        closing=None if before else "final_layer_norm",
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
"""Every supported family."""
