"""LDDU: multi-label emotion with a latent distribution per label and modality (Findings of ACL 2025, arXiv 2502.13954).

Modalities m = 1..M, labels k = 1..K, width d (256), latent width z (128).

    O^m     = Transformer(LayerNorm(W_in LayerNorm(X^m) + positions))       [T_m, d]   post-norm layers, GELU
    Q^m     = L W_q^m,   H^m = O^m W_h^m                                   L: label embeddings [K, d]
    Z^m     = Dropout(softmax(Q^m H^m' / sqrt(d)) H^m) W_o^m               [K, d]     H^m is both key and value
    h^m     = ReLU MLP of Z^m, d -> 3d/4 -> d/2 -> d/2
    mu^m    = W_mu h^m,   sigma^m = exp(W_sigma h^m / 2)                   [K, z]     nothing is sampled
    y_dir   = sigmoid(MLP([Z^1; ...; Z^M]))                                [K]        one MLP for all labels
    y_mu    = sigmoid(MLP_k([mu^1; ...; mu^M])),  y_sig likewise of sigma  [K]        one MLP per label
    y       = y_mu y_dir + y_sig (1 - y_dir)                               [K]
    L       = BCE(y, Y) + 0.3 BCE(y_dir, Y) + 1.0 L_scl + 0.3 L_crl

``L_scl`` is the supervised contrastive loss over e = [mu / |mu|; sigma / |sigma|] of every clip, modality and label.
Its classes are modality x label x (in the set or not). Similarity is e.e' / 2, the temperature 0.07; a queue keeps what
the last batches had, and while it fills, L_scl rises with the number of candidates. ``L_crl`` =
(KL(p_u || p_d) + KL(p_d || p_u)) / 2 with p_u the softmax of |[sigma^1; ...; sigma^M]| and p_d that of y_dir, both over
all clips and labels of the batch.

``values`` are logit(y), so that their sigmoid is y. With the task ``label`` the truth is a set of one, and the largest
y is the prediction.

Unaligned sequences: each modality has its own length, and attention reads true steps alone. A missing modality: its Z,
mu and sigma are zeros for the heads, and it has no part in the contrastive loss.

Size: 5,492,519 parameters with text 768, audio 74, video 35, K = 6 and 60 positions. The public code has 6,086,707:
396,812 more in two classifiers that are never called, 197,376 in poolers whose result is not used.

*Deviations*, all from the public code:

- p_d is normalised like p_u (there: over the labels of one clip), and both KL are sums (there: divided by B K).
- The score of a clip's past confidence, which the code keeps and does not use, does not exist.
- The threshold belongs to the task, which chooses it on validation data; the code selects its epoch on test data.
- The queue is empty at the start (there: random numbers with random classes), keeps no gradients, and its entries are
  no anchors unless ``queue_anchors`` is set. Anchors without a positive are left out (there: they count as 0).
- Attention leaves padding out in the label-wise step too.
- No dropout on the encoder of mu and sigma: the code computes it and overwrites the result.
- More positions than the published 60, for sequences that are not aligned to words.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mosear.fusion.batch import FeatureBatch
from mosear.fusion.model import FusionModel, FusionOutput
from mosear.fusion.sequences import step_mask, without_padding
from mosear.fusion.tasks import Task
from mosear.settings import AtLeastOne, NotNegative, Positive, Share, arguments

_EMPTY = -1
_HEAD_DROPOUT = 0.1


class LDDU(FusionModel):
    """See the module's docstring.

    Args:
        dimensions: see :class:`~mosear.fusion.model.FusionModel`.
        outputs: K.
        width: d.
        latent: z.
        layers: of each modality's transformer.
        heads: of its attention.
        feed_forward: width of its feed-forward blocks.
        dropout: in the transformers.
        positions: longest sequence that can be read.
        direct_weight: of BCE(y_dir, Y).
        contrastive_weight: of L_scl.
        calibration_weight: of L_crl.
        temperature: of L_scl.
        queue: entries that are kept for L_scl; 0 = none.
        queue_anchors: entries of the queue are anchors too.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"label", "labels"})
    queue_values: Tensor
    queue_classes: Tensor
    queue_next: Tensor

    @arguments
    def __init__(
        self,
        dimensions: Mapping[str, int],
        outputs: int,
        *,
        width: AtLeastOne = 256,
        latent: AtLeastOne = 128,
        layers: AtLeastOne = 3,
        heads: AtLeastOne = 8,
        feed_forward: AtLeastOne = 256,
        dropout: Share = 0.3,
        positions: AtLeastOne = 512,
        direct_weight: NotNegative = 0.3,
        contrastive_weight: NotNegative = 1.0,
        calibration_weight: NotNegative = 0.3,
        temperature: Positive = 0.07,
        queue: int = 8192,
        queue_anchors: bool = False,
    ) -> None:
        super().__init__(dimensions, outputs)
        _check(width, heads, queue)
        self.positions, self.temperature, self.queue_anchors = positions, temperature, queue_anchors
        self.weights = {"direct": direct_weight, "contrastive": contrastive_weight, "calibration": calibration_weight}
        self.encoders = nn.ModuleDict(
            {
                name: _Encoder(size, width, layers, heads, feed_forward, dropout, positions)
                for name, size in dimensions.items()
            }
        )
        self.label_embeddings = nn.Parameter(nn.init.xavier_uniform_(torch.empty(outputs, width)))
        self.label_attention = nn.ModuleDict({name: _LabelAttention(width) for name in dimensions})
        self.latents = nn.ModuleDict({name: _Latent(width, latent) for name in dimensions})
        count = len(dimensions)
        self.direct_head = _head(count * width, width // 2)
        self.mu_heads = nn.ModuleList(_head(count * latent, width // 2) for _ in range(outputs))
        self.sigma_heads = nn.ModuleList(_head(count * latent, width // 2) for _ in range(outputs))
        self.register_buffer("queue_values", torch.zeros(queue, 2 * latent))
        self.register_buffer("queue_classes", torch.full((queue,), _EMPTY, dtype=torch.long))
        self.register_buffer("queue_next", torch.zeros((), dtype=torch.long))

    def forward(self, batch: FeatureBatch) -> FusionOutput:
        """``[B, K]``; ``extras``: ``direct`` (logits of y_dir) ``[B, K]``, ``mu`` and ``sigma`` ``[B, K, M, z]``,
        ``present`` bool ``[B, M]``."""
        parts = [self._read(batch, name) for name in self.dimensions]
        z, mu, sigma = (torch.stack(values, dim=2) for values in zip(*parts, strict=True))
        direct = self.direct_head(z.flatten(2))[..., 0]
        gate = direct.sigmoid()
        y_mu, y_sigma = _per_label(self.mu_heads, mu.flatten(2)), _per_label(self.sigma_heads, sigma.flatten(2))
        y = (y_mu.sigmoid() * gate + y_sigma.sigmoid() * (1 - gate)).float()
        present = torch.stack([batch.present(name) for name in self.dimensions], dim=1)
        extras = {"direct": direct, "mu": mu, "sigma": sigma, "present": present}
        return FusionOutput(torch.logit(y, eps=1e-6), extras=extras)

    def _read(self, batch: FeatureBatch, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Z ``[B, K, d]``, mu and sigma ``[B, K, z]`` of a modality; zeros where it is missing."""
        lengths = batch.lengths[name]
        values = self._within_positions(batch.features[name], lengths, name)
        mask = step_mask(lengths.clamp(min=1), values.shape[1])
        encoded = self.encoders[name](without_padding(values, lengths), mask)
        z = self.label_attention[name](self.label_embeddings, encoded, mask)
        missing = ~batch.present(name)[:, None, None]
        mu, sigma = self.latents[name](z)
        return z.masked_fill(missing, 0.0), mu.masked_fill(missing, 0.0), sigma.masked_fill(missing, 0.0)

    def _within_positions(self, values: Tensor, lengths: Tensor, name: str) -> Tensor:
        if values.shape[1] > self.positions and int(lengths.max()) > self.positions:
            most = int(lengths.max())
            raise ValueError(
                f"LDDU has {self.positions} positions, and {name} has {most} steps in a clip. "
                f"Set model.positions={most} or more."
            )
        return values[:, : self.positions]  # what is cut off is padding

    def loss(self, output: FusionOutput, batch: FeatureBatch, task: Task) -> dict[str, Tensor]:
        """``loss`` and its four parts, unweighted; in training mode the queue takes in what it has seen."""
        truth = self._truth(batch, task)
        direct, sigma = output.extras["direct"].float(), output.extras["sigma"].float()
        parts = {
            "final": functional.binary_cross_entropy_with_logits(output.values, truth),
            "direct": functional.binary_cross_entropy_with_logits(direct, truth),
            "contrastive": self._contrastive(output, truth),
            "calibration": calibration(sigma.flatten(2).norm(dim=-1), direct.sigmoid()),
        }
        total = sum((self.weights[name] * parts[name] for name in self.weights), parts["final"])
        return {"loss": total, **{f"{name}_loss": part for name, part in parts.items()}}

    def _truth(self, batch: FeatureBatch, task: Task) -> Tensor:
        if task.name == "labels":
            return batch.targets["labels"].float()
        return functional.one_hot(batch.targets["label"], self.outputs).float()

    def _contrastive(self, output: FusionOutput, truth: Tensor) -> Tensor:
        mu, sigma = output.extras["mu"].float(), output.extras["sigma"].float()
        entries = torch.cat([functional.normalize(mu, dim=-1), functional.normalize(sigma, dim=-1)], dim=-1)
        modality = torch.arange(len(self.dimensions), device=truth.device)
        label = torch.arange(self.outputs, device=truth.device)
        absent = (truth < 0.5).long()[:, :, None]
        classes = label[None, :, None] + self.outputs * (2 * modality[None, None] + absent)  # [B, K, M]
        present = output.extras["present"][:, None].expand_as(classes)
        entries, classes = entries[present], classes[present]
        filled = self.queue_classes != _EMPTY
        found = contrast(
            entries,
            classes,
            self.queue_values[filled].clone(),
            self.queue_classes[filled].clone(),
            self.temperature,
            queue_anchors=self.queue_anchors,
        )
        if self.training:
            self._enqueue(entries.detach(), classes)
        return found

    @torch.no_grad()
    def _enqueue(self, entries: Tensor, classes: Tensor) -> None:
        """First in, first out; of more than the queue can hold the last stay."""
        size = len(self.queue_classes)
        kept = min(size, len(classes))
        if not kept:
            return
        places = (self.queue_next + torch.arange(kept, device=classes.device)) % size
        self.queue_values[places] = entries[-kept:].to(self.queue_values.dtype)
        self.queue_classes[places] = classes[-kept:]
        self.queue_next.add_(kept).remainder_(size)


def contrast(
    entries: Tensor,
    classes: Tensor,
    queue: Tensor,
    queue_classes: Tensor,
    temperature: float,
    *,
    queue_anchors: bool = False,
) -> Tensor:
    """Supervised contrastive loss, a mean over anchors a of the mean over positives p of
    -log softmax_{c != a}(e_a.e_c / 2t) at p. Positives have the class of a; anchors without one are left out.

    Args:
        entries: ``[N, E]`` of the batch.
        classes: ``[N]``.
        queue: ``[Q, E]``, candidates beside those of the batch.
        queue_classes: ``[Q]``.
        temperature: t.
        queue_anchors: the queue's entries are anchors too.
    """
    candidates, kinds = torch.cat([entries, queue]), torch.cat([classes, queue_classes])
    count = len(candidates) if queue_anchors else len(entries)
    logits = candidates[:count] @ candidates.T / (2 * temperature)
    itself = torch.eye(count, len(candidates), dtype=torch.bool, device=logits.device)
    log_p = logits - logits.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    positive = (kinds[:count, None] == kinds[None]) & ~itself
    matched = positive.sum(1)
    per_anchor = torch.where(positive, log_p, torch.zeros_like(log_p)).sum(1) / matched.clamp(min=1)
    return -per_anchor.sum() / (matched > 0).sum().clamp(min=1)


def calibration(uncertainty: Tensor, direct: Tensor) -> Tensor:
    """The mean of both KL divergences between softmax(uncertainty) and softmax(direct), each over all ``B x K``."""
    log_u, log_d = uncertainty.flatten().log_softmax(0), direct.flatten().log_softmax(0)
    return ((log_u.exp() - log_d.exp()) * (log_u - log_d)).sum() / 2


class _Encoder(nn.Module):
    """A modality's transformer."""

    def __init__(
        self, size: int, width: int, layers: int, heads: int, feed_forward: int, dropout: float, positions: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size, eps=1e-12)
        self.projection = nn.Linear(size, width)
        self.positions = nn.Parameter(torch.empty(positions, width).normal_(std=0.02))
        self.embedded_norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(
            width, heads, feed_forward, dropout, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        layer.dropout = nn.Dropout(0.0)  # the published layer has none between the feed-forward block's two maps
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """``[B, T, D]`` to ``[B, T, d]``."""
        embedded = self.projection(self.norm(values)) + self.positions[: values.shape[1]]
        return self.transformer(self.dropout(self.embedded_norm(embedded)), src_key_padding_mask=~mask)


class _LabelAttention(nn.Module):
    """Labels read a modality: one head, H is both key and value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.read, self.out = (nn.Linear(width, width) for _ in range(3))
        self.dropout = nn.Dropout(_HEAD_DROPOUT)

    def forward(self, labels: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """``[K, d]`` and ``[B, T, d]`` to ``[B, K, d]``."""
        read = self.read(encoded)
        scores = self.query(labels) @ read.transpose(1, 2) / read.shape[-1] ** 0.5
        weights = scores.masked_fill(~mask[:, None], float("-inf")).softmax(-1)
        return self.out(self.dropout(weights @ read))


class _Latent(nn.Module):
    """Z to mu and sigma."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        sizes = [width, width * 3 // 4, width // 2, width // 2]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.mu, self.log_variance = nn.Linear(sizes[-1], latent), nn.Linear(sizes[-1], latent)
        for layer in (*self.hidden, self.mu, self.log_variance):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.hidden:
            z = functional.relu(layer(z))
        return self.mu(z), torch.exp(0.5 * self.log_variance(z))


def _head(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.Dropout(_HEAD_DROPOUT), nn.ReLU(), nn.Linear(hidden, 1))


def _per_label(heads: nn.ModuleList, values: Tensor) -> Tensor:
    """Logits ``[B, K]`` of ``[B, K, N]``, each label by its own head."""
    return torch.cat([head(values[:, k]) for k, head in enumerate(heads)], dim=-1)


def _check(width: int, heads: int, queue: int) -> None:
    if width % heads or width < 4:
        raise ValueError(f"LDDU: width={width} must be at least 4 and a multiple of heads={heads}.")
    if queue < 0:
        raise ValueError(f"LDDU: queue={queue} must not be negative.")
