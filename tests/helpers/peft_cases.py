"""The cases of PEFT's own tests for a method, by PEFT's names, and what MoSE does in each."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """What MoSE does.

    Attributes:
        note: on what condition it works, or why it is refused.
        sentence: part of the message with which it is refused (a regular expression); empty = it works.
    """

    note: str = ""
    sentence: str = ""

    @property
    def outcome(self) -> str:
        """In one word."""
        return "refused" if self.sentence else "works"


def _all(names: str, case: Case) -> dict[str, Case]:
    return dict.fromkeys(names.split(), case)


MERGED = Case("the update depends on the sample (the gate) and on the token (the masks)", "cannot be merged")
ONE_ADAPTER = Case("the batch has one adapter; run a batch per adapter", "one adapter for the whole batch")
FROZEN = Case("the backbone stays frozen", "MoSE trains no weight of the backbone")
STATE = "in training mode inside `sequence_state`, which says where the prompt ends"

CASES: dict[str, Case] = {
    # tests/testing_common.py, and what runs it
    **_all(
        "test_model_attr test_adapter_name test_prepare_for_training test_save_pretrained test_save_pretrained_pickle "
        "test_save_pretrained_selected_adapters test_save_pretrained_selected_adapters_pickle "
        "test_save_pretrained_adapter_name_substring test_load_model_low_cpu_mem_usage test_load_multiple_adapters "
        "test_from_pretrained_config_construction test_generate test_generate_pos_args test_generate_half_prec "
        "test_inference_safetensors test_peft_model_device_map test_delete_adapter test_delete_inactive_adapter "
        "test_delete_unknown_adapter_raises test_unload_adapter test_disable_adapter test_get_base_model_state_dict",
        Case(),
    ),
    **_all("test_training test_training_layer_indexing", Case(STATE)),
    "test_training_gradient_checkpointing": Case(f"{STATE}; with `use_reentrant=False`"),
    "test_training_gradient_checkpointing_reentrant": Case(
        "the reentrant variant gives the gate no gradient", "use_reentrant=False"
    ),
    "test_passing_input_embeds_works": Case(
        "inside `sequence_state` with roles: embeddings do not say which token carries which modality"
    ),
    **_all(
        "test_merge_layers test_merge_layers_multi test_merge_layers_nan test_merge_layers_fp16 "
        "test_merge_layers_is_idempotent test_safe_merge test_disable_adapters_with_merging "
        "test_multiple_active_adapters_merge_and_unmerge",
        MERGED,
    ),
    **_all("test_mixed_adapter_batches test_generate_with_mixed_adapter_batches_and_beam_search", ONE_ADAPTER),
    "test_weighted_combination_of_adapters": Case(
        "the sum of two gated updates is no gated update; choose one with `set_adapter`", "cannot be combined"
    ),
    **_all("test_adding_multiple_adapters_with_bias_raises test_modules_to_save", FROZEN),
    "test_lora_conversion": Case(
        "PEFT's conversion needs one update per layer; `mosear export` makes a plain LoRA", "LoRA"
    ),
    # tests/test_custom_models.py, test_low_level_api.py, test_initialization.py, test_mixed.py
    **_all(
        "test_in_features_out_features_exposed test_forward_output_finite test_forward_float16 test_forward_bfloat16 "
        "test_forward_float16_no_autocast test_forward_bfloat16_no_autocast test_adapter_dtype_autocast "
        "test_only_params_are_updated test_parameters_after_loading_model test_save_load_roundtrip "
        "test_disable_adapters_exiting_context_restores_previous_state "
        "test_disable_adapters_exiting_context_irregular_state test_active_adapter "
        "test_add_adapter_rejects_duplicate_name_without_mutation test_set_adapter_non_overlapping_modules "
        "test_delete_adapter_properly_cleans_up_after_itself test_set_requires_grad test_weight_bias_attributes "
        "test_adapter_name_makes_no_difference test_existing_model_card test_non_existing_model_card "
        "test_inject_adapter_in_model test_get_peft_model_state_dict test_inject_from_state_dict "
        "test_get_peft_model_low_cpu_mem_usage_works test_get_peft_model_with_task_type_low_cpu_mem_usage_works "
        "test_repr",
        Case(),
    ),
    "test_save_pretrained_targeting_lora_to_embedding_layer": Case(
        "only linear layers of the decoder are adapted", "matches no linear layer"
    ),
    # tests/test_config.py
    **_all(
        "test_methods test_valid_task_type test_invalid_task_type test_from_peft_type test_config_save_pretrained "
        "test_from_json_file test_to_dict test_set_attributes test_config_copy test_config_deepcopy "
        "test_config_pickle_roundtrip test_save_pretrained_with_target_modules test_from_pretrained_forward_compatible "
        "test_from_pretrained_sanity_check test_config_layers_to_transform_index_zero test_peft_version_is_stored",
        Case(),
    ),
    # tests/test_tuners_utils.py
    **_all(
        "test_add_second_adapter_with_all_linear_works test_no_modules_matched_second_adapter "
        "test_targeted_module_names_unique_across_adapters test_exclude_modules_not_used test_layer_status "
        "test_model_status test_vanilla_model_raises",
        Case(),
    ),
    **_all(
        "test_no_modules_matched test_all_modules_excluded",
        Case("the message names the setting and what would match", "matches no linear layer"),
    ),
    "test_multiple_active_adapters_forward": Case("one adapter is active at a time", "one adapter at a time"),
    "test_hotswap_works": Case(
        "PEFT swaps the weights of LoRA alone; use `load_adapter` and `set_adapter`", "MOSE was passed"
    ),
    "test_mixed_adapter_types": Case(
        "`mixed=True` adds updates of several methods, which have no gate in common", "'MOSE' is not compatible"
    ),
    "test_transformers_load_adapter": Case(
        "transformers leaves out the gates; use `PeftModel.from_pretrained`", r"Use peft\.PeftModel\.from_pretrained"
    ),
}


def rows(cases: Iterable[tuple[str, Case]]) -> str:
    """The table of docs/appendix/peft.md: a row per outcome and note."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, case in cases:
        grouped.setdefault((case.outcome, case.note), []).append(f"`{name}`")
    lines = [
        f"| {outcome} | {', '.join(names)} | {note or '-'} |"
        for (outcome, note), names in sorted(grouped.items(), key=lambda row: (row[0][0] == "refused", row[0][1]))
    ]
    return "\n".join(["| result | PEFT's case | condition or reason |", "|---|---|---|", *lines]) + "\n"
