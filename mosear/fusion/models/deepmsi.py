"""DeepMSI-MER: contrastive fusion on a compressed visual sequence (arXiv 2502.08573), on features.

    t, a    = mean over time of text and audio                                [B, D_t], [B, D_a]
    g       = MLP([t; a])                     the guide                       [B, D_v]
    z       = features of the video           N valid tokens                  [B, T, D_v]
    block i of the visual sequence compression, k tokens are kept:
        m       = mean_n z_n + g
        s_n     = softmax_n cos(m, z_n)       R = the k largest, in their order; the others are dropped
        theta_dr = exp cos(z_d, z_r) / sum_{r' in R} exp cos(z_d, z_r')        of a dropped d for a kept r
        z_r     <- alpha z_r + (1 - alpha) sum_{d: cos(z_d, z_r) > tau} theta_dr z_d     where there is such a d
    h_v     = temporal convolution of z at its last token                     [B, 1024]
    p_m     = LayerNorm(u + Dropout(W' GELU(u))),  u = W h_m                  [B, 256], 0 where m is missing
    y       = MLP([p_v; p_t; p_a])                                            [B, outputs]

    L   = L_task + w (L_VT + L_VA) / 2
    L_VM = mean_i 1/(n - 1) sum_{j != i, y_j = y_i} -log( e_ij / (e_ij + sum_{l: y_l != y_i} e_il) )
    e_ij = exp( cos(p_v[i], p_M[j]) / 0.5 )   over the n clips with both modalities; 0 without pairs of either kind

An MLP is Linear, BatchNorm, LeakyReLU(0.01), Dropout for each hidden width, then Linear. A block of the temporal
convolution is twice {causal convolution with weight norm, ReLU, Dropout}, plus the input (through a 1x1 convolution
where widths differ), then ReLU; block i has dilation 2^i.

Two clips have the same class (y_j = y_i) if their labels are equal, or their label sets, or their rounded scores (our
reading: the paper knows single labels alone).

``extras``: ``compression_ratio`` ``[B]``, tokens kept / tokens (1 without video); ``video``, ``text``, ``audio``, the
projections.

Deviations:
  * The published blocks sit inside a SwinV2 with KAN layers that reads pixels, one frame at a time. Here features come
    from frozen towers or files, so the blocks follow each other on the sequence of visual features, and kept shares are
    its default instead of 196, 144 and 100 of 256 patches.
  * The public code computes merged tokens and returns those from before; here they are merged.
  * Where several dropped tokens match one kept token, the public code takes one of them, whichever is written last;
    here all contribute.
  * Kept tokens stay in the order of time (in the public code: of their score).
  * Scores choose tokens and nothing else, so the published guide gets no gradient. Here it gets one by a
    straight-through estimator: a kept token is multiplied by 1 + s - stop_gradient(s), which is 1.
  * Text and audio are pooled here; missing modalities and sequences of different lengths are masked.
  * Linear layers before a batch norm have no bias, which would change nothing; a training batch of one clip is
    normalised by the running statistics.
  * The loss is computed in log space; without pairs it is 0 (public code: 1e-8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import mean_over_time

if TYPE_CHECKING:
    from mosear.fusion.tasks import Task

GUIDES = ("text", "audio")


class DeepMSI(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: width by modality; ``video`` and at least one of ``text`` and ``audio``.
        outputs: numbers per clip.
        keep: of each compression block, the share of tokens that it keeps (a float up to 1.0), or their number (an
            integer); empty = no compression.
        similarity: tau, above which a dropped token is merged.
        retained: alpha, what a kept token retains of itself where others are merged into it.
        guide: hidden widths of the guide's MLP.
        channels: of the temporal convolution's blocks.
        kernel_size: of the temporal convolution.
        projection: width of the projections.
        classifier: hidden widths of the last MLP.
        convolution_dropout: of the temporal convolution.
        projection_dropout: of the projections.
        guide_dropout: of the guide.
        classifier_dropout: of the last MLP.
        contrast: w, weight of the contrastive loss.
        temperature: of the contrastive loss.
    """

    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        keep: Sequence[int | float] = (0.766, 0.735, 0.694),
        similarity: float = 0.6,
        retained: float = 0.9,
        guide: Sequence[int] = (512,),
        channels: Sequence[int] = (1024, 1024, 1024),
        kernel_size: int = 3,
        projection: int = 256,
        classifier: Sequence[int] = (512, 256, 128),
        convolution_dropout: float = 0.3,
        projection_dropout: float = 0.2,
        guide_dropout: float = 0.3,
        classifier_dropout: float = 0.3,
        contrast: float = 0.5,
        temperature: float = 0.5,
    ) -> None:
        guides = [name for name in GUIDES if name in dimensions]
        if "video" not in dimensions or not guides:
            raise ValueError(
                f"DeepMSI compresses the video under the guidance of text and audio, but these features have "
                f"{', '.join(dimensions)}. Choose features with video and at least one of text and audio."
            )
        super().__init__({name: dimensions[name] for name in ("video", *guides)}, outputs)
        _check_keep(keep)
        if not -1 <= similarity <= 1 or not 0 <= retained <= 1:
            raise ValueError(
                f"similarity is a cosine and retained a share, but they are {similarity} and {retained}. Choose "
                "similarity between -1 and 1 and retained between 0 and 1."
            )
        if temperature <= 0 or contrast < 0:
            raise ValueError(f"temperature ({temperature}) must be above 0 and contrast ({contrast}) not below 0.")
        if not channels or kernel_size < 1:
            raise ValueError(
                f"channels ({list(channels)}) needs at least one width and kernel_size ({kernel_size}) must be at "
                "least 1."
            )
        self.keep = [share for share in keep if not (isinstance(share, float) and share == 1.0)]
        self.similarity, self.retained, self.contrast, self.temperature = similarity, retained, contrast, temperature
        width = sum(dimensions[name] for name in guides)
        self.guide = mlp([width, *guide, dimensions["video"]], guide_dropout) if self.keep else None
        sizes = [dimensions["video"], *channels]
        self.convolution = nn.ModuleList(
            _ConvolutionBlock(before, after, kernel_size, 2**level, convolution_dropout)
            for level, (before, after) in enumerate(pairwise(sizes))
        )
        own = {**self.dimensions, "video": channels[-1]}
        self.heads = nn.ModuleDict(
            {name: _Projection(size, projection, projection_dropout) for name, size in own.items()}
        )
        self.classifier = mlp([len(own) * projection, *classifier, outputs], classifier_dropout)

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, outputs]``."""
        pooled = {
            name: mean_over_time(batch.features[name], batch.lengths[name])
            for name in self.dimensions
            if name != "video"
        }
        pooled["video"], ratio = self._video(batch, pooled)
        projected = {
            name: head(pooled[name]) * batch.present(name)[:, None].to(pooled[name].dtype)
            for name, head in self.heads.items()
        }
        values = self.classifier(torch.cat(list(projected.values()), dim=-1))
        return FusionOutput(values, extras={"compression_ratio": ratio, **projected})

    def _video(self, batch: FeatureBatch, pooled: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """``[B, D]`` at the last token, and tokens kept / tokens ``[B]``."""
        tokens, lengths = batch.features["video"] * batch.mask("video")[..., None], batch.lengths["video"]
        if self.guide is not None:
            guide = self._guide(batch, pooled)
            for keep in self.keep:
                tokens, lengths = compressed(tokens, lengths, guide, keep, self.similarity, self.retained)
        hidden = tokens.transpose(1, 2)
        for block in self.convolution:
            hidden = block(hidden)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, hidden.shape[1], 1)
        ratio = torch.where(lengths > 0, lengths / batch.lengths["video"].clamp(min=1), 1.0)
        return hidden.gather(2, last)[..., 0], ratio

    def _guide(self, batch: FeatureBatch, pooled: Mapping[str, Tensor]) -> Tensor:
        """``[B, D_v]``; zeros for clips with neither text nor audio."""
        assert self.guide is not None
        names = [name for name in self.dimensions if name != "video"]
        told = torch.stack([batch.present(name) for name in names]).any(0)
        read = torch.cat([pooled[name] for name in names], dim=-1)
        guide = read.new_zeros(len(read), self.dimensions["video"])
        if bool(told.any()):
            guide[told] = self.guide(read[told]).to(guide.dtype)
        return guide

    def loss(self, output: FusionOutput, batch: FeatureBatch, task: Task) -> dict[str, Tensor]:
        """That of the task and the contrast."""
        own = task.loss(output, batch)
        same = same_class(batch.targets)
        terms = []
        for name in self.dimensions:
            if name != "video":
                both = batch.present("video") & batch.present(name)
                pair = output.extras["video"][both], output.extras[name][both]
                terms.append(supervised_contrast(*pair, same[both][:, both], self.temperature))
        contrast = torch.stack(terms).mean()
        return {"loss": own + self.contrast * contrast, "task": own, "contrast": contrast}


# -- visual sequence compression ---------------------------------------------------------------------------------------


def compressed(
    tokens: Tensor, lengths: Tensor, guide: Tensor, keep: float, similarity: float, retained: float
) -> tuple[Tensor, Tensor]:
    """One block of the compression: the kept tokens, others merged into them.

    Args:
        tokens: ``[B, T, D]``, zeros behind a clip's length.
        lengths: int64 ``[B]``.
        guide: ``[B, D]``.
        keep: share (float) or number (int).
        similarity: tau.
        retained: alpha.

    Returns:
        Tokens ``[B, K, D]`` in their order, zeros behind a clip's length, and lengths.
    """
    valid = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    counts = (lengths.double() * keep - 1e-9).ceil().long() if isinstance(keep, float) else lengths.clamp(max=keep)
    focus = tokens.sum(1) / lengths.clamp(min=1)[:, None] + guide
    cosine = torch.einsum("bd,btd->bt", functional.normalize(focus, dim=-1), functional.normalize(tokens, dim=-1))
    scores = cosine.masked_fill(~valid, -2.0).softmax(-1)  # a cosine is at least -1; a clip may have no token at all
    rank = cosine.masked_fill(~valid, -2.0).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    kept = valid & (rank < counts[:, None])
    merged = _merged(tokens, kept, valid & ~kept, similarity, retained)
    merged = merged * torch.where((counts < lengths)[:, None], 1 + scores - scores.detach(), 1.0)[..., None]
    order = (~kept).byte().argsort(dim=-1, stable=True)[:, : max(1, int(counts.max()))]  # the kept ones first, in order
    chosen = (merged * kept[..., None]).gather(1, order[..., None].expand(-1, -1, tokens.shape[-1]))
    return chosen, counts


def _merged(tokens: Tensor, kept: Tensor, dropped: Tensor, similarity: float, retained: float) -> Tensor:
    """Tokens ``[B, T, D]``; those kept have taken up similar ones that were dropped."""
    unit = functional.normalize(tokens, dim=-1)
    cosine = unit @ unit.transpose(1, 2)  # [B, dropped, kept]
    share = (cosine.exp() * kept[:, None]) / (cosine.exp() * kept[:, None]).sum(-1, keepdim=True).clamp(min=1e-8)
    match = (cosine > similarity) & dropped[:, :, None] & kept[:, None]
    taken = (share * match).transpose(1, 2) @ tokens
    return torch.where(match.any(1)[..., None], retained * tokens + (1 - retained) * taken, tokens)


def _check_keep(keep: Sequence[int | float]) -> None:
    for value in keep:
        share = isinstance(value, float) and 0 < value <= 1
        if not share and not (isinstance(value, int) and value >= 1):
            raise ValueError(
                f"keep is {list(keep)}, in which {value!r} is neither a share of tokens (a float above 0 and up to "
                "1.0) nor their number (an integer from 1). Write for instance keep=[0.75,0.5] or keep=[196,144,100]."
            )


# -- contrast ----------------------------------------------------------------------------------------------------------


def same_class(targets: Mapping[str, Tensor]) -> Tensor:
    """bool ``[B, B]``: which clips have equal labels, label sets or rounded scores."""
    flat = torch.cat([value.reshape(len(value), -1).double() for value in targets.values()], dim=-1).round()
    return (flat[:, None] == flat[None]).all(-1)


def supervised_contrast(first: Tensor, second: Tensor, same: Tensor, temperature: float) -> Tensor:
    """L_VM of the module's docstring.

    Args:
        first: ``[n, P]``.
        second: ``[n, P]``.
        same: bool ``[n, n]``.
        temperature: of the similarities.
    """
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    if not bool(positive.any()) or bool(same.all()):
        return (first.sum() + second.sum()) * 0.0
    logits = functional.normalize(first, dim=-1) @ functional.normalize(second, dim=-1).T / temperature
    against = logits.masked_fill(same, -torch.inf).logsumexp(-1, keepdim=True)
    terms = torch.logaddexp(logits, against) - logits
    return (terms * positive).sum() / (len(same) * (len(same) - 1))


# -- layers ------------------------------------------------------------------------------------------------------------


class _BatchNorm(nn.BatchNorm1d):
    """A batch of one row has no variance of its own: it is normalised by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def mlp(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, BatchNorm, LeakyReLU, Dropout for each hidden width, then Linear."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after, bias=False), _BatchNorm(after), nn.LeakyReLU(0.01), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class _Projection(nn.Module):
    """``[.., D]`` to ``[.., P]``."""

    def __init__(self, width: int, projection: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, projection), nn.Linear(projection, projection)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(projection)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.first(x)
        found: Tensor = self.norm(projected + self.dropout(self.second(functional.gelu(projected))))
        return found


class _ConvolutionBlock(nn.Module):
    """``[B, C, T]`` to ``[B, C', T]``; a step reads itself and steps before it."""

    def __init__(self, before: int, after: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.padding = (kernel_size - 1) * dilation
        self.convolutions = nn.ModuleList(
            weight_norm(nn.Conv1d(size, after, kernel_size, dilation=dilation)) for size in (before, after)
        )
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv1d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = x
        for convolution in self.convolutions:
            hidden = self.dropout(functional.relu(convolution(functional.pad(hidden, (self.padding, 0)))))
        return functional.relu(hidden + self.shortcut(x))
