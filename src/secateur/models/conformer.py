"""The classical Conformer with a CTC head, as a transformers model (Gulati et al. 2020, arXiv 2005.08100).

Parameter names are those of transformers' Parakeet, the Conformer's descendant. The file depends on torch and
transformers alone, so that a saved checkpoint can carry it. Capital suffixes name dimensions where shapes change:

    B batch   T frames   P relative positions, 2T - 1   M mel bins   D residual width   H heads
    K query/key width of a head   E value width of a head   C channels of a convolution   V vocabulary
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class ConformerConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers' base is untyped
    """Dimensions of a Conformer-CTC model; the defaults are those of NVIDIA's ``stt_en_conformer_ctc_small``.

    Args:
        vocab_size: output classes, blank included.
        pad_token_id: id of the CTC blank.
        num_mel_bins: features per input frame.
        hidden_size: residual width.
        num_hidden_layers: Conformer layers.
        num_attention_heads: heads of each self-attention; they divide ``hidden_size``.
        intermediate_size: hidden units of each feed-forward module.
        conv_kernel_size: taps of the depthwise convolution; odd when the convolution is symmetric.
        conv_norm: norm inside the convolution module, ``batch_norm`` or ``layer_norm``.
        conv_context: ``symmetric``, or ``causal``: the depthwise convolution sees no later frame.
        subsampling: ``striding`` (full convolutions) or ``dw_striding`` (depthwise-separable after the first).
        subsampling_factor: input frames per encoder frame: 2, 4 or 8.
        subsampling_conv_channels: channels of the subsampling convolutions.
        scale_input: multiply the encoder's input by the square root of ``hidden_size``.
        use_bias: biases in feed-forward, attention and convolution modules.
        dropout: rate after every module; ``attention_dropout``: rate on attention weights.
    """

    model_type = "secateur_conformer"

    def __init__(
        self,
        vocab_size: int = 1025,
        pad_token_id: int = 1024,
        num_mel_bins: int = 80,
        hidden_size: int = 176,
        num_hidden_layers: int = 16,
        num_attention_heads: int = 4,
        intermediate_size: int = 704,
        conv_kernel_size: int = 31,
        conv_norm: str = "batch_norm",
        conv_context: str = "symmetric",
        subsampling: str = "striding",
        subsampling_factor: int = 4,
        subsampling_conv_channels: int = 176,
        scale_input: bool = True,
        use_bias: bool = True,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        choices = {
            "conv_norm": (conv_norm, ("batch_norm", "layer_norm")),
            "conv_context": (conv_context, ("symmetric", "causal")),
            "subsampling": (subsampling, ("striding", "dw_striding")),
            "subsampling_factor": (subsampling_factor, (2, 4, 8)),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(
                    f"{name} is {value!r}; a Conformer takes one of {', '.join(map(str, allowed))}"
                )
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size {hidden_size} does not divide into {num_attention_heads} attention heads"
            )
        if hidden_size % 2:
            raise ValueError(f"hidden_size {hidden_size} is odd; positions need sine and cosine pairs")
        if conv_context == "symmetric" and conv_kernel_size % 2 == 0:
            raise ValueError(
                f"conv_kernel_size {conv_kernel_size} is even; a symmetric convolution needs an odd one"
            )
        self.vocab_size = vocab_size
        self.num_mel_bins = num_mel_bins
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.conv_kernel_size = conv_kernel_size
        self.conv_norm = conv_norm
        self.conv_context = conv_context
        self.subsampling = subsampling
        self.subsampling_factor = subsampling_factor
        self.subsampling_conv_channels = subsampling_conv_channels
        self.scale_input = scale_input
        self.use_bias = use_bias
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        # AutoModelForCTC goes by it, as there are pruned models of this configuration too.
        kwargs["architectures"] = kwargs.get("architectures") or ["ConformerForCTC"]
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class Subsampling(nn.Module):
    """Strided convolutions over time and frequency, then a projection to the residual width."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        channels, separable = config.subsampling_conv_channels, config.subsampling == "dw_striding"
        self.layers = nn.ModuleList([nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.ReLU()])
        frequencies = (config.num_mel_bins + 1) // 2
        for _ in range(int(math.log2(config.subsampling_factor)) - 1):
            groups = channels if separable else 1
            self.layers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=groups))
            if separable:
                self.layers.append(nn.Conv2d(channels, channels, 1))
            self.layers.append(nn.ReLU())
            frequencies = (frequencies + 1) // 2
        self.linear = nn.Linear(channels * frequencies, config.hidden_size)

    def forward(self, features_BTM: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if lengths_B is not None:
            padding_BT1 = ~frame_mask(lengths_B, features_BTM.shape[1])[..., None]
            features_BTM = features_BTM.masked_fill(padding_BT1, 0.0)
        x_BCTM = features_BTM.unsqueeze(1)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                # With channels last in memory a CPU convolves in half the time.
                x_BCTM = x_BCTM.contiguous(memory_format=torch.channels_last)
            x_BCTM = layer(x_BCTM)
            if lengths_B is not None and isinstance(layer, nn.Conv2d):
                if layer.stride[0] == 2:
                    lengths_B = (lengths_B + 1) // 2
                # Frames past the end must read as zero padding to the next convolution, biases notwithstanding.
                x_BCTM = x_BCTM * frame_mask(lengths_B, x_BCTM.shape[2])[:, None, :, None]
        return self.linear(x_BCTM.transpose(1, 2).flatten(2)), lengths_B


class FeedForward(nn.Module):
    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.linear2(self.dropout(F.silu(self.linear1(x_BTD))))
        return out_BTD


class RelativeAttention(nn.Module):
    """Self-attention with relative positions (Dai et al. 2019, arXiv 1901.02860, section 3.3), biases untied.

    Query/key width, value width and number of heads are attributes of their own, so that each can be pruned alone;
    the logits keep the scale of the width that the model was trained with.
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.qk_dim = self.v_dim = config.hidden_size // self.num_heads
        self.scaling = self.qk_dim**-0.5
        width = config.hidden_size
        self.q_proj = nn.Linear(width, width, bias=config.use_bias)
        self.k_proj = nn.Linear(width, width, bias=config.use_bias)
        self.v_proj = nn.Linear(width, width, bias=config.use_bias)
        self.o_proj = nn.Linear(width, width, bias=config.use_bias)
        self.relative_k_proj = nn.Linear(width, width, bias=False)
        self.bias_u = nn.Parameter(torch.zeros(self.num_heads, self.qk_dim))
        self.bias_v = nn.Parameter(torch.zeros(self.num_heads, self.qk_dim))

    def forward(self, x_BTD: Tensor, positions_PD: Tensor, key_bias_B11T: Tensor | None) -> Tensor:
        batch, frames, _ = x_BTD.shape
        q_BTHK = self.q_proj(x_BTD).view(batch, frames, self.num_heads, self.qk_dim)
        k_BHTK = self.k_proj(x_BTD).view(batch, frames, self.num_heads, self.qk_dim).transpose(1, 2)
        v_BHTE = self.v_proj(x_BTD).view(batch, frames, self.num_heads, self.v_dim).transpose(1, 2)
        p_PHK = self.relative_k_proj(positions_PD).view(-1, self.num_heads, self.qk_dim)

        content_BHTK = (q_BTHK + self.bias_u).transpose(1, 2)
        position_BHTK = ((q_BTHK + self.bias_v) * self.scaling).transpose(1, 2)
        bias_BHTT = relative_shift(position_BHTK @ p_PHK.permute(1, 2, 0))
        if key_bias_B11T is not None:
            bias_BHTT = bias_BHTT + key_bias_B11T

        # On a CPU the fused kernel takes twice as long as the plain products where the widths of heads differ.
        fused = self.qk_dim == self.v_dim or x_BTD.device.type != "cpu"
        implementation = self.config._attn_implementation if fused else "eager"
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, plain_attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        out_BTHE, _ = attend(
            self, content_BHTK, k_BHTK, v_BHTE, bias_BHTT, dropout=dropout, scaling=self.scaling
        )
        out_BTD: Tensor = self.o_proj(out_BTHE.flatten(2))
        return out_BTD


def plain_attention(
    module: nn.Module,
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTE: Tensor,
    bias_BHTT: Tensor,
    *,
    dropout: float,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as two products and a softmax: transformers' ``eager`` implementation, whose operations are counted."""
    weights_BHTT = (q_BHTK @ k_BHTK.transpose(2, 3) * scaling + bias_BHTT).softmax(-1)
    out_BHTE = F.dropout(weights_BHTT, dropout, module.training) @ v_BHTE
    return out_BHTE.transpose(1, 2), weights_BHTT


class PointwiseConv(nn.Conv1d):
    """A convolution of one tap, computed as the linear layer that it is: [B, C, T] to [B, C, T], both with C last in memory.

    On a CPU that takes a quarter to a half of the time of the convolution.
    """

    def forward(self, x_BCT: Tensor) -> Tensor:
        return F.linear(x_BCT.transpose(1, 2), self.weight.squeeze(-1), self.bias).transpose(1, 2)


class DepthwiseConv(nn.Conv1d):
    """One filter for each channel, over an image of width one: [B, C, T] to [B, C, T], both with C last in memory.

    On a CPU that takes a tenth to a third of the time of the one-dimensional convolution. An image of height one would be
    as fast, but oneDNN unrolls its kernels along the width and takes seconds to compile each.
    """

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT1 = x_BCT.transpose(1, 2).unsqueeze(2).permute(0, 3, 1, 2)
        return F.conv2d(x_BCT1, self.weight.unsqueeze(3), self.bias, groups=self.groups).squeeze(3)


class ConvolutionModule(nn.Module):
    """Pointwise expansion with a gated linear unit, depthwise convolution, norm, SiLU, pointwise projection."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width, kernel = config.hidden_size, config.conv_kernel_size
        past = kernel - 1 if config.conv_context == "causal" else (kernel - 1) // 2
        self.padding = (past, kernel - 1 - past)
        self.pointwise_conv1 = PointwiseConv(width, 2 * width, 1, bias=config.use_bias)
        self.depthwise_conv = DepthwiseConv(width, width, kernel, groups=width, bias=config.use_bias)
        self.norm = nn.BatchNorm1d(width) if config.conv_norm == "batch_norm" else nn.LayerNorm(width)
        self.pointwise_conv2 = PointwiseConv(width, width, 1, bias=config.use_bias)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        x_BTC = F.glu(self.pointwise_conv1(x_BTD.transpose(1, 2)).transpose(1, 2), dim=-1)
        if mask_BT is not None:
            x_BTC = x_BTC * mask_BT[..., None]
        x_BTC = F.pad(x_BTC, (0, 0, *self.padding))
        x_BTC = self.depthwise_conv(x_BTC.transpose(1, 2)).transpose(1, 2)
        # Either norm is over the last dimension of rows; that over batches takes no more than two.
        if self.training and mask_BT is not None and isinstance(self.norm, nn.BatchNorm1d):
            # Padding is all alike, and none of what statistics are of.
            normed = self.norm(x_BTC[mask_BT]).to(x_BTC.dtype)
            x_BTC = x_BTC.masked_scatter(mask_BT[..., None], normed)
        else:
            x_BTC = self.norm(x_BTC.flatten(0, 1)).view_as(x_BTC)
        out_BTD: Tensor = self.pointwise_conv2(F.silu(x_BTC).transpose(1, 2)).transpose(1, 2)
        return out_BTD


class ConformerLayer(nn.Module):
    """Half a feed-forward step, self-attention, convolution, half a feed-forward step; each behind its norm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.norm_feed_forward1 = nn.LayerNorm(config.hidden_size)
        self.feed_forward1 = FeedForward(config)
        self.norm_self_att = nn.LayerNorm(config.hidden_size)
        self.self_attn = RelativeAttention(config)
        self.norm_conv = nn.LayerNorm(config.hidden_size)
        self.conv = ConvolutionModule(config)
        self.norm_feed_forward2 = nn.LayerNorm(config.hidden_size)
        self.feed_forward2 = FeedForward(config)
        self.norm_out = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x_BTD: Tensor, positions_PD: Tensor, mask_BT: Tensor | None, key_bias_B11T: Tensor | None
    ) -> Tensor:
        x_BTD = x_BTD + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(x_BTD)))
        x_BTD = x_BTD + self.dropout(self.self_attn(self.norm_self_att(x_BTD), positions_PD, key_bias_B11T))
        x_BTD = x_BTD + self.dropout(self.conv(self.norm_conv(x_BTD), mask_BT))
        x_BTD = x_BTD + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(x_BTD)))
        out_BTD: Tensor = self.norm_out(x_BTD)
        return out_BTD


class ConformerPreTrainedModel(PreTrainedModel):  # type: ignore[misc]  # transformers' base is untyped
    config_class = ConformerConfig
    base_model_prefix = "encoder"
    main_input_name = "input_features"
    input_modalities = "audio"
    _supports_sdpa = True
    _no_split_modules = ["ConformerLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RelativeAttention):
            init.zeros_(module.bias_u)
            init.zeros_(module.bias_v)


class ConformerEncoder(ConformerPreTrainedModel):
    """Features to hidden states, one per ``subsampling_factor`` input frames."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(config)
        self.input_scale = math.sqrt(config.hidden_size) if config.scale_input else 1.0
        self.subsampling = Subsampling(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        """Encode.

        Args:
            input_features: [batch, frames, mel bins].
            attention_mask: [batch, frames], true (or 1) where there is speech to hear. No output at a true frame
                depends on what stands at false ones.
            output_hidden_states: also return the residual stream before the first and after every layer.
        """
        lengths_B = None if attention_mask is None else attention_mask.sum(-1)
        x_BTD, lengths_B = self.subsampling(input_features, lengths_B)
        x_BTD = self.dropout(x_BTD * self.input_scale)
        frames = x_BTD.shape[1]
        positions_PD = relative_positions(frames, self.config.hidden_size).to(x_BTD)
        mask_BT = key_bias_B11T = None
        if lengths_B is not None:
            mask_BT = frame_mask(lengths_B, frames)
            key_bias_B11T = torch.zeros_like(mask_BT, dtype=x_BTD.dtype)
            key_bias_B11T = key_bias_B11T.masked_fill(~mask_BT, torch.finfo(x_BTD.dtype).min)[:, None, None]

        hidden_states = [x_BTD]
        for layer in self.layers:
            x_BTD = layer(x_BTD, positions_PD, mask_BT, key_bias_B11T)
            if output_hidden_states:
                hidden_states.append(x_BTD)
        return BaseModelOutput(
            last_hidden_state=x_BTD, hidden_states=tuple(hidden_states) if output_hidden_states else None
        )


class ConformerForCTC(ConformerPreTrainedModel):
    """A Conformer encoder and a linear CTC head over the vocabulary."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(config)
        self.encoder = ConformerEncoder(config)
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(
        self,
        input_features: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits, and the CTC loss where labels are given.

        Args:
            input_features: [batch, frames, mel bins].
            attention_mask: [batch, frames], true (or 1) where there is speech to hear.
            labels: [batch, tokens], padded with -100. The loss is the mean over utterances of the loss per token.
            output_hidden_states: also return the encoder's residual stream.

        Returns:
            ``logits`` [batch, encoder frames, vocabulary], not normalised.
        """
        encoded = self.encoder(input_features, attention_mask, output_hidden_states=output_hidden_states)
        logits_BTV = self.ctc_head(encoded.last_hidden_state)
        loss = None
        if labels is not None:
            if attention_mask is None:
                lengths_B = torch.full((len(logits_BTV),), logits_BTV.shape[1])
            else:
                lengths_B = self._get_feat_extract_output_lengths(attention_mask.sum(-1))
            loss = F.ctc_loss(
                logits_BTV.log_softmax(-1, dtype=torch.float32).transpose(0, 1),
                labels.clamp(min=0),
                lengths_B,
                (labels >= 0).sum(-1),
                blank=self.config.pad_token_id,
                zero_infinity=True,
            )
        return CausalLMOutput(loss=loss, logits=logits_BTV, hidden_states=encoded.hidden_states)

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        """Encoder frames for a number of input frames; the name is the one that transformers' models use."""
        for _ in range(int(math.log2(self.config.subsampling_factor))):
            input_lengths = (input_lengths + 1) // 2
        return input_lengths


def frame_mask(lengths_B: Tensor, frames: int) -> Tensor:
    """[batch, frames], true at the first ``lengths_B`` frames of each row."""
    return torch.arange(frames, device=lengths_B.device) < lengths_B[:, None]


def relative_positions(frames: int, width: int) -> Tensor:
    """Sinusoids of the distances frames - 1 down to 1 - frames: [2 frames - 1, width], sines at even columns."""
    distance_P = torch.arange(frames - 1, -frames, -1, dtype=torch.float32)
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    angle = distance_P[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def relative_shift(scores_BHTP: Tensor) -> Tensor:
    """From scores by distance to scores by key: out[t, s] = scores[t, T - 1 - t + s]; a view, no copy.

    Laid flat, row t of the result starts 2T - 2 entries after row t - 1.
    """
    frames = scores_BHTP.shape[2]
    return scores_BHTP.flatten(2)[..., frames - 1 :].unfold(-1, frames, max(2 * frames - 2, 1))
