"""Scores of each modality of a training clip, made from its known score by distances to class centres (Self-MM).

Views are ``fusion`` and the modalities. For a clip with score y_f, n-th time seen, and features f_s of view s:

    c_s+, c_s-  = means of f_s over the clips whose label y_s is above / below 0
    delta_s     = (|f_s - c_s-| - |f_s - c_s+|) / (|f_s - c_s+| + 1e-8)
    new         = clamp((delta_s / (delta_f + 1e-8)) y_f / 2 + (y_f + delta_s - delta_f) / 2, -H, H)
    y_s         <- (n - 1) / (n + 1) y_s + 2 / (n + 1) new                    from n = 2 on; y_s = y_f at n = 1

Centres are those of what has been seen before the batch. Nothing is updated for a view that lacks one of them, nor for
a modality that a clip lacks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

FUSION = "fusion"
_SMALLEST = 1e-8
_ROOM = 64


class ModalityLabels:
    """Grows with the clips that it is shown.

    Args:
        sizes: width of each view's features; ``fusion`` first.
        limit: H.
    """

    def __init__(self, sizes: Mapping[str, int], limit: float) -> None:
        self.sizes, self.limit = dict(sizes), limit
        self._rows: dict[int, int] = {}
        views = len(self.sizes)
        # By column: key of the clip, times seen, labels, whether the view has features, features.
        self._table = torch.zeros(0, 2 + 2 * views + sum(self.sizes.values()), dtype=torch.float64)
        self._labels = slice(2, 2 + views)
        self._known = slice(2 + views, 2 + 2 * views)

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, ids: Sequence[str], scores: Tensor) -> Tensor:
        """int64 ``[B]``: where the clips stand; a new one starts with its score in every view."""
        self._table = self._table.to(scores.device)
        found = []
        for name, score in zip(ids, scores.tolist(), strict=True):
            key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big")  # exact as a float64
            if key not in self._rows:
                self._rows[key] = len(self._rows)
                if len(self._rows) > len(self._table):
                    more = max(_ROOM, len(self._table))
                    self._table = torch.cat([self._table, self._table.new_zeros(more, self._table.shape[1])])
                row = self._table[self._rows[key]]
                row[0], row[self._labels] = key, score
            found.append(self._rows[key])
        return torch.tensor(found, device=scores.device)

    def labels(self, rows: Tensor) -> dict[str, Tensor]:
        """``[B]`` by view."""
        return dict(zip(self.sizes, self._table[rows, self._labels].float().unbind(1), strict=True))

    @torch.no_grad()
    def update(self, rows: Tensor, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> None:
        """After the loss of a batch: new labels of clips that were seen before, then their new features.

        Args:
            rows: of :meth:`rows`.
            features: ``[B, D]`` by view.
            present: bool ``[B]`` by view, which clips have it.
        """
        seen = self._table[rows, 1]
        deltas = {view: self._delta(view, features[view].double()) for view in self.sizes}
        fusion = deltas[FUSION]
        truth = self._table[rows, 2]
        for column, (view, delta) in enumerate(deltas.items()):
            if view == FUSION or fusion is None or delta is None:
                continue
            new = 0.5 * delta / (fusion + _SMALLEST) * truth + 0.5 * (truth + delta - fusion)
            n, old = seen + 1, self._table[rows, 2 + column]
            mixed = (n - 1) / (n + 1) * old + 2 / (n + 1) * new.clamp(-self.limit, self.limit)
            self._table[rows, 2 + column] = torch.where((seen > 0) & present[view], mixed, old)
        start = 2 + 2 * len(self.sizes)
        for column, (view, size) in enumerate(self.sizes.items()):
            own = rows[present[view]]
            self._table[own, start : start + size] = features[view][present[view]].to(self._table)
            self._table[own, self._known.start + column] = 1
            start += size
        self._table[rows, 1] = seen + 1

    def _delta(self, view: str, values: Tensor) -> Tensor | None:
        """``[B]``; ``None`` where the view lacks a centre."""
        column = list(self.sizes).index(view)
        start = 2 + 2 * len(self.sizes) + sum(list(self.sizes.values())[:column])
        known = self._table[:, self._known.start + column] > 0
        label, stored = self._table[known, 2 + column], self._table[known, start : start + self.sizes[view]]
        above, below = label > 0, label < 0
        if not (bool(above.any()) and bool(below.any())):
            return None
        to_above = (values - stored[above].mean(0)).norm(dim=-1)
        to_below = (values - stored[below].mean(0)).norm(dim=-1)
        return (to_below - to_above) / (to_above + _SMALLEST)

    def state(self) -> Tensor:
        """Everything, as one tensor."""
        return self._table[: len(self)].clone()

    def load(self, state: Tensor) -> None:
        """What :meth:`state` gave."""
        self._table = state.double().clone()
        self._rows = {int(key): row for row, key in enumerate(state[:, 0].tolist())}
