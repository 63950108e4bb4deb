"""The network of MSE-Adapter: audio and video, mixed under the guidance of the text, become pseudo tokens.

After "MSE-Adapter: A Lightweight Plugin Endowing LLMs with the Capability to Perform Multimodal Sentiment Analysis and
Emotion Recognition" (arXiv 2502.12478). With d numbers per embedding of the language model and n pseudo tokens:

    a, v = W_m LSTM_m(x_m) + b_m           at the last step; 0 where m is missing              [B, 256]
    g    = W_t mean of text embeddings + b_t                            text-guided mixer      [B, 256]
    f    = a (.) g + v (.) g                                                                   [B, 256]
    s_k  = W_k' GELU(W_k f + b_k) + b_k'   hidden widths d/8, d/32, d/16     multi-scale fusion [B, 256]
    m    = c_1 s_1 + c_2 s_2 + c_3 s_3 + c_0      a convolution over the three scales          [B, 256]
    u    = W_u m + b_u                                                                         [B, d]
    P_j  = w_j u + e_j                     j = 1..n                          pseudo tokens     [B, n, d]

All pseudo tokens are affine copies of u: together they carry one vector.

Deviations:
  * The published mean of the text embeddings includes padding, whose share depends on the length that a data set is
    padded to. Here it is over the tokens of the text.
  * A missing modality contributes 0; the public code has none. Without text, g is its bias.
  * The public code loses the batch dimension of a single sample in ``squeeze`` and puts it back later.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALES = (8, 32, 16)


class PseudoTokenMixer(nn.Module):
    """See the module's docstring.

    Args:
        width: d.
        audio_dim: of the audio's features.
        video_dim: of the video's.
        tokens: n.
        audio_hidden: of the audio's LSTM.
        video_hidden: of the video's.
        mixed: width of everything in between (published: 256).
        dropout: of the LSTMs' last states.
    """

    def __init__(
        self,
        width: int,
        audio_dim: int,
        video_dim: int,
        *,
        tokens: int = 4,
        audio_hidden: int = 64,
        video_hidden: int = 32,
        mixed: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width < max(SCALES):
            raise ValueError(
                f"The language model's embeddings have {width} numbers, of which MSE-Adapter takes 1 / {max(SCALES)}. "
                f"Choose a backbone with at least {max(SCALES)}."
            )
        self.audio = _Summary(audio_dim, audio_hidden, mixed, dropout)
        self.video = _Summary(video_dim, video_hidden, mixed, dropout)
        self.guide = nn.Linear(width, mixed)
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Linear(mixed, width // share), nn.GELU(), nn.Linear(width // share, mixed))
            for share in SCALES
        )
        self.mix = nn.Linear(len(SCALES), 1)
        self.lift = nn.Linear(mixed, width)
        self.spread = nn.Linear(1, tokens)

    def forward(
        self,
        audio: Tensor,
        audio_lengths: Tensor,
        video: Tensor,
        video_lengths: Tensor,
        text: Tensor,
        text_lengths: Tensor,
    ) -> Tensor:
        """Pseudo tokens ``[B, n, d]``.

        Args:
            audio: ``[B, T_a, audio_dim]``; what stands behind a clip's length is not read.
            audio_lengths: int64 ``[B]``, 0 = missing.
            video: ``[B, T_v, video_dim]``.
            video_lengths: int64 ``[B]``.
            text: embeddings ``[B, T_t, d]``.
            text_lengths: int64 ``[B]``.
        """
        read = torch.arange(text.shape[1], device=text.device) < text_lengths[:, None]
        mean = text.masked_fill(~read[..., None], 0.0).sum(1) / text_lengths.clamp(min=1)[:, None]
        guide = self.guide(mean)
        fused = self.audio(audio, audio_lengths) * guide + self.video(video, video_lengths) * guide
        scales = torch.stack([scale(fused) for scale in self.scales], dim=-1)
        lifted = self.lift(self.mix(scales)[..., 0])
        tokens: Tensor = self.spread(lifted[..., None]).transpose(1, 2)
        return tokens


class _Summary(nn.Module):
    """``[B, T, D]`` to ``[B, mixed]``: a linear map of an LSTM's last state."""

    def __init__(self, size: int, hidden: int, mixed: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(size, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, mixed)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        # What stands behind a clip's end does not reach its last step. A missing sequence is read as one step, and then
        # left out: weights must have gradients in every process.
        read = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        states, _ = self.lstm(features.masked_fill(~read[..., None], 0.0))
        at = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[-1])
        last = states.gather(1, at)[:, 0]
        found: Tensor = self.linear(self.dropout(last)).masked_fill((lengths == 0)[:, None], 0.0)
        return found
