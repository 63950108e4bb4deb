"""Chosen rows of an attention call against all of its rows, computed with repeated keys."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from mosear.roles import TokenRole
from mosear.steering.attention import NAME, ExactRows, kernel_for, steered_attention, steered_mask
from mosear.steering.passes import SteeredPass
from mosear.steering.policies.reallocation import AttentionReallocation
from mosear.steering.rows import Keys, SteeredRows
from tests.helpers.eager_steering import AUDIO, PAD, VISUAL, all_probabilities, steered_positions

TEXT = int(TokenRole.TEXT)


def tensors(heads: int = 6, groups: int = 2, queries: int = 7, keys: int = 7, batch: int = 3, size: int = 8) -> Any:
    query = torch.randn(batch, heads, queries, size)
    return query, torch.randn(batch, groups, keys, size), torch.randn(batch, groups, keys, size)


def expected_rows(full: Tensor, index: Tensor) -> Tensor:
    return torch.stack([own[:, rows] for own, rows in zip(full, index, strict=True)])


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("kind", ["causal", "bool", "additive", "per head", "one for all"])
def test_rows_equal_those_of_the_whole_matrix(heads: int, groups: int, kind: str) -> None:
    query, key, value = tensors(heads, groups)
    index = torch.tensor([[6, 2], [0, 5], [3, 4]])
    shape = {"per head": (3, heads, 7, 7), "one for all": (1, 1, 7, 7)}.get(kind, (3, 1, 7, 7))
    mask = None
    if kind != "causal":
        mask = (torch.rand(shape) < 0.6) | torch.eye(7, dtype=torch.bool)
    given = mask
    if kind == "additive":
        given = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    full = all_probabilities(query, key, mask, 8**-0.5)
    exact = ExactRows(query, key, value, given)
    probabilities = exact.probabilities(index)
    torch.testing.assert_close(probabilities, expected_rows(full, index))
    values = full @ value.repeat_interleave(heads // groups, dim=1)
    torch.testing.assert_close(exact.values(probabilities), expected_rows(values, index).transpose(1, 2))


def test_a_bias_is_added() -> None:
    query, key, value = tensors()
    bias = torch.randn(3, 1, 7, 7)
    index = torch.arange(7).expand(3, -1)
    repeated = key.repeat_interleave(3, dim=1)
    expected = (query @ repeated.transpose(-1, -2) * 8**-0.5 + bias).softmax(-1)
    torch.testing.assert_close(ExactRows(query, key, value, bias).probabilities(index), expected)


@pytest.mark.parametrize("kernel", ["fast", "exact"])
def test_a_row_without_keys_is_zero(kernel: str) -> None:
    query, key, value = tensors()
    mask = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril()
    mask[1, :, 4] = False
    if kernel == "fast":
        output, _ = steered_attention(layer(), query, key, value, mask)
        assert not output.isnan().any() and (output[1, 4] == 0).all() and (output[0, 4] != 0).all()
        return
    exact = ExactRows(query, key, value, mask)
    probabilities = exact.probabilities(torch.tensor([[4], [4], [4]]))
    assert (probabilities[1] == 0).all() and (exact.values(probabilities)[1] == 0).all()
    torch.testing.assert_close(probabilities[0].sum(-1), torch.ones(6, 1))


@pytest.mark.parametrize("window", [None, 3])
def test_causal_rows_of_a_continuation_with_padding(window: int | None) -> None:
    """What a flash kernel is given: ``[B, K]``, queries at the end of the keys."""
    query, key, value = tensors(queries=3, keys=9)
    padding = torch.ones(3, 9, dtype=torch.long)
    padding[0, :2] = 0
    mask = torch.zeros(3, 1, 3, 9, dtype=torch.bool)
    for sample in range(3):
        for row in range(3):
            for column in range(row + 7):
                near = window is None or column > row + 6 - window
                mask[sample, 0, row, column] = near and bool(padding[sample, column])
    exact = ExactRows(query, key, value, padding, causal_offset=6, window=window)
    expected = all_probabilities(query, key, mask, 8**-0.5)
    torch.testing.assert_close(exact.probabilities(torch.arange(3).expand(3, -1)), expected)


def test_low_precision_inputs_are_computed_in_fp32() -> None:
    query, key, value = (t.bfloat16() for t in tensors())
    exact = ExactRows(query, key, value, None)
    with torch.autocast("cpu", torch.bfloat16):
        probabilities = exact.probabilities(torch.arange(7).expand(3, -1))
        values = exact.values(probabilities)
    expected = all_probabilities(query, key, None, 8**-0.5)
    torch.testing.assert_close(probabilities, expected)
    assert probabilities.dtype == torch.float32 and values.dtype == torch.bfloat16
    repeated = value.float().repeat_interleave(3, dim=1)
    torch.testing.assert_close(values.float(), (expected @ repeated).transpose(1, 2), rtol=0.01, atol=0.01)


# -- rows and keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", range(20))
def test_steered_rows_are_those_after_the_last_media_token(trial: int) -> None:
    generator = torch.Generator().manual_seed(trial)
    roles = torch.full((4, 12), TEXT)
    for sample in range(3):  # the fourth has no media
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            place = int(torch.randint(0, 9, (), generator=generator))
            roles[sample, place : place + 2] = AUDIO if torch.rand((), generator=generator) < 0.5 else VISUAL
    roles[1, :3] = PAD
    roles[2, 10:] = PAD
    prompt_mask = torch.arange(12).expand(4, -1) < torch.tensor([12, 11, 9, 10])[:, None]
    rows = SteeredRows.after_media(roles, prompt_mask)
    for sample in range(4):
        own = rows.index[sample][rows.valid[sample]]
        assert own.tolist() == steered_positions(roles[sample])
        assert (~rows.answer[sample][rows.valid[sample]]).equal(prompt_mask[sample, own])
        assert len(set(rows.index[sample].tolist())) == rows.count
    assert not rows.everything


def test_answer_rows_of_samples_without_media_are_left_out() -> None:
    roles = torch.tensor([[TEXT, AUDIO, TEXT], [TEXT, TEXT, TEXT]])
    rows = SteeredRows.after_prompt(roles, 2)
    assert rows.valid.tolist() == [[True, True], [False, False]] and rows.answer.all() and not rows.everything
    assert SteeredRows.after_prompt(roles[:1], 2).everything
    assert SteeredRows.after_prompt(roles[1:], 2).count == 0


def test_every_key_has_one_modality() -> None:
    roles = torch.tensor([[PAD, VISUAL, VISUAL, AUDIO, TEXT]])
    keys = Keys.of(roles, 7)
    assert keys.kinds.tolist() == [[2, 1, 1, 0, 2, 2, 2]]
    assert (keys.masks.sum(-1) == 1).all() and keys.masks.argmax(-1).equal(keys.kinds)


# -- the function --------------------------------------------------------------------------------------------------


def layer(config: Any = None) -> Any:
    return SimpleNamespace(layer_idx=0, num_key_value_groups=3, is_causal=True, config=config or SimpleNamespace())


def a_pass(roles: Tensor, **options: Any) -> SteeredPass:
    everything = torch.ones_like(roles, dtype=torch.bool)
    return SteeredPass(AttentionReallocation(**options), SteeredRows.after_media(roles, everything), roles)


ROLES = torch.tensor(
    [[PAD, AUDIO, VISUAL, TEXT, TEXT, TEXT, TEXT], [AUDIO, AUDIO, VISUAL, VISUAL, VISUAL, TEXT, TEXT], [TEXT] * 7]
)


def test_only_rows_that_the_policy_edits_are_written() -> None:
    query, key, value = tensors()
    plain, _ = steered_attention(layer(), query, key, value, None)
    steered, _ = steered_attention(layer(), query, key, value, None, steering=a_pass(ROLES, threshold=0.4))
    written = (plain != steered).any(-1)
    allowed = torch.zeros(3, 7, dtype=torch.bool)
    allowed[0, 3:], allowed[1, 5:] = True, True
    assert written[allowed].any() and not written[~allowed].any()
    # Heads below the threshold keep the kernel's very numbers.
    assert 0 < written[allowed].float().mean() < 1


@pytest.mark.parametrize("mask", [None, torch.ones(3, 1, 7, 7, dtype=torch.bool).tril()], ids=["none", "bool"])
def test_moving_nothing_equals_sdpa(mask: Tensor | None) -> None:
    query, key, value = tensors()
    plain, _ = steered_attention(layer(), query, key, value, mask)
    steering = a_pass(ROLES, threshold=0.0, portion=0.0)
    counted = []
    steering.note = lambda layer, sums, counts: counted.append(sums[..., 6].sum())
    steered, _ = steered_attention(layer(), query, key, value, mask, steering=steering)
    assert counted[0] > 0, "rows were computed exactly and written over"
    torch.testing.assert_close(steered, plain, rtol=0, atol=1e-6)


def test_many_rows_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = tensors()
    whole, _ = steered_attention(layer(), query, key, value, None, steering=a_pass(ROLES, threshold=0.1))
    monkeypatch.setattr("mosear.steering.attention.ROWS_AT_ONCE", 2)
    parts, _ = steered_attention(layer(), query, key, value, None, steering=a_pass(ROLES, threshold=0.1))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_a_kernel_with_padding_masks_alone() -> None:
    """Under a flash kernel the mask is ``[B, K]`` or nothing, and masks of queries by keys go to SDPA."""
    calls = []

    def kernel(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any) -> Any:
        calls.append(module.config._attn_implementation_internal)
        full = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
        if mask is not None:
            full = full & mask.bool()[:, None, None]
        probabilities = all_probabilities(query, key, full, query.shape[-1] ** -0.5)
        return (probabilities @ value.repeat_interleave(3, dim=1)).transpose(1, 2).contiguous(), None

    AttentionInterface.register("flash_by_hand", kernel)
    config = SimpleNamespace(_attn_implementation_internal=NAME)
    query, key, value = tensors()
    padding = (ROLES != PAD).long()
    boolean = torch.ones(7, 7, dtype=torch.bool).tril() & padding.bool()[:, None, None]
    expected, _ = steered_attention(layer(), query, key, value, boolean, steering=a_pass(ROLES, threshold=0.1))
    real = padding.bool()
    with kernel_for(config, "flash_by_hand"):
        options = {"batch_size": 3, "q_length": 7, "kv_length": 7, "config": config}
        mask = steered_mask(attention_mask=padding.bool(), **options)
        assert mask.shape == (3, 7) and steered_mask(attention_mask=None, **options) is None
        for given in (mask, boolean):
            found, _ = steered_attention(layer(config), query, key, value, given, steering=a_pass(ROLES, threshold=0.1))
            torch.testing.assert_close(found[real], expected[real])
    assert calls == ["flash_by_hand"] and config._attn_implementation_internal == NAME


def test_unknown_kernels_are_refused() -> None:
    with (
        pytest.raises(ValueError, match=r"attn_implementation='flex_attention'.*'sdpa'"),
        kernel_for(object(), "flex_attention"),
    ):
        pass
