"""Which constructs of Python and PyTorch are compiled, and by which networks each is proved.

In: nothing. Out: `CATALOGUE`: group -> construct -> names of cases (in `cases/` or `published/`) or of tests elsewhere
(`path::test`); `prove`, which compiles a case and compares it with eager PyTorch on every path, as it is and three
modules deep (see `nesting`).
Never: a construct without a case, or a case that is refused, known to be broken, or compared on some paths only:
`test_catalogue.py` sees to that, and `python -m tests.constructs` prints the proofs.
"""
from __future__ import annotations

import functools
import importlib
import itertools
from dataclasses import dataclass

from tests.constructs import registry, sampling
from tests.constructs.build import build, eager, forced, random_calls, run
from tests.constructs.compare import difference
from tests.constructs.nesting import nested
from tests.constructs.registry import Case

HOST = "tests/capture/test_hostop.py::"

CATALOGUE: dict[str, dict[str, tuple[str, ...]]] = {
    "decisions": {
        "if/elif/else": ("if_elif_else", "branchynet", "skipnet_three_modules_deep"),
        "conditional expressions": ("conditional_expressions", "trap_conditional_expressions_in_comprehensions"),
        "and/or/not with short circuit": ("and_or_not_short_circuit", "and_or_as_values"),
        "chained comparisons": ("chained_comparisons", "trap_conditional_expressions_in_comprehensions"),
        "match": (
            "match_on_a_string", "match_with_guards", "match_on_structures", "enum_choice_and_match",
            "trap_matches_in_comprehensions"),
        "assert": ("asserts",),
        "any()/all() over Python lists of tensors": (
            "any_and_all_over_lists", "trap_any_and_all_of_generators_in_filters"),
        "tensor in list": ("tensor_in_list", "number_in_list"),
        "max(list_of_tensors)": ("max_and_min_of_tensors", "trap_tuples_compared_by_their_first"),
        "early return from any depth": ("early_return_three_deep", "trap_return_in_finally"),
        "raise/except used as control flow across modules": (
            "early_exit_by_exception", "exception_through_decorators_and_a_comprehension", "deebert_throws_its_exit",
            "try_except_else_finally", "solver_with_retries", "trap_exceptions_that_pass_a_context"),
        "with torch.no_grad()": ("context_managers", "decorators"),
        "with torch.autocast": ("autocast_around_a_decision", "context_managers"),
        "decorators": ("decorators", "context_variable_around_a_loop", "router_in_a_decorator"),
        "functools.partial": ("functools_partial", "trap_functions_made_by_decisions"),
        "lambdas": ("lambdas", "trap_functions_made_by_decisions"),
        "closures": ("closures_with_nonlocal", "trap_late_binding_of_closures", "join_flag_of_a_closure"),
        "callables passed as arguments": ("helper_function_with_callables", "callable_objects_and_properties"),
        "generators with tensor filters": (
            "generator_method", "trap_generators_through_generators", "trap_delegating_generators"),
        "comprehensions with tensor filters": (
            "comprehensions_with_tensor_filters", "trap_comprehension_within_a_comprehension",
            "trap_assignment_expressions_in_filters"),
        "hooks": ("forward_hooks", "pre_hook_with_keywords", "trap_HookThatThrows"),
        "super().forward()": ("super_forward", "mixin_in_the_resolution_order"),
        "nn.Sequential with dynamic members": ("sequential_with_dynamic_members", "sequential_as_the_target"),
        "a rebound self.forward": ("rebound_forward", "rebound_forward_as_the_target"),
    },
    "loops": {
        "for over ModuleList": ("branchynet", "pabee_patience_counter", "parameter_list"),
        "for over dict": ("over_a_module_dict_with_continue", "trap_OverADict"),
        "for over zip": ("unet_zip_enumerate_reversed", "trap_numbers_zipped_with_a_shorter_list"),
        "for over enumerate": ("unet_zip_enumerate_reversed", "table_of_scales"),
        "for over reversed": ("unet_zip_enumerate_reversed", "over_a_module_dict_with_continue"),
        "range(int(t))": ("range_of_int_of_tensor", "trap_counted_loops_one_after_another", "trap_range_with_a_step"),
        "range(t.max() + 1)": ("range_of_tensor_maximum",),
        "iteration over a tensor's rows": ("over_the_rows_of_a_tensor", "packing_into_a_buffer"),
        "iteration over nonzero()": ("over_nonzero",),
        "while on tensors": ("while_tensor_condition", "bisection", "trap_loop_in_a_comprehension"),
        "while True with break": ("while_true_with_break", "join_two_exits_of_a_loop"),
        "for … else": ("newton_for_else", "while_else", "trap_retries_with_continue_and_else"),
        "nested loops with break and continue": ("nested_loops_break_continue", "join_counters_of_nested_loops"),
        "the loop variable used after the loop": ("loop_variable_after_the_loop", "trap_shadowed_names"),
        "counters and patience counters": ("pabee_patience_counter", "host_scalars_carried_by_a_loop"),
        "loops with a host-scalar carried value": (
            "host_scalars_carried_by_a_loop", "best_so_far_with_item", "trap_nested_functions_that_loop"),
        "growing lists in a loop": ("greedy_decoding_with_eos", "generator_method", "beam_search_over_lists"),
        "torch.cat in a loop": ("growing_cat_bounded", "growing_cat_unbounded", "decode_with_a_cache"),
        "adaptive solvers": ("adaptive_ode_solver", "adaptive_solver_with_rejected_steps", "solver_with_retries"),
        "fixed-point iteration with a tolerance": ("deq_fixed_point", "anderson_acceleration_with_a_list_of_residuals"),
    },
    "values": {
        ".item()": ("item_arithmetic", "best_so_far_with_item"),
        "int/float/bool(t)": ("int_float_bool", "trap_rounding_of_numbers", "trap_numbers_through_math"),
        ".tolist()": ("tolist", "trap_numbers_kept_in_lists"),
        "a data-dependent integer as slice bound": ("slice_bound_from_data", "trap_slices_clamp"),
        "a data-dependent integer as index": (
            "index_from_data", "module_list_by_index", "trap_integer_as_every_kind_of_index"),
        "a data-dependent integer as repeat count": (
            "repeat_count_from_data", "repeat_interleave", "range_of_int_of_tensor"),
        "a data-dependent integer as dictionary or ModuleDict key (self.heads[names[t.argmax().item()]])": (
            "head_by_name", "tuple_and_dict_by_index", "trap_KeyedByText", "trap_number_in_a_dict"),
        "string choices": ("string_choice", "match_on_a_string"),
        "enum choices": ("enum_choice_and_match", "trap_enums_of_every_kind"),
        "nonzero": ("nonzero_shapes", "length_of_nonzero"),
        "boolean masks": ("masked_read_and_write", "trap_concatenated_selections"),
        "unique": ("unique_labels",),
        "top-k with a computed k": ("topk_with_computed_k",),
        "token pruning": ("token_pruning_with_empty_selection", "dynamic_vit_with_a_threshold"),
        "empty selections": (
            "token_pruning_with_empty_selection", "trap_reductions_of_an_empty_selection", "trap_ThreeWays"),
    },
    "state": {
        "module attributes written in forward: counters": ("module_counter", "join_Phases"),
        "module attributes written in forward: caches": ("memoised_last_call", "trap_Rotary"),
        "module attributes written in forward: statistics": ("running_statistics", "join_Averaged"),
        "KV-cache objects": ("kv_cache_object", "cache_object_within_a_call", "trap_Paged"),
        "streaming state with reset": ("streaming_with_none_context", "trap_ResetByData"),
        "buffers mutated in place": ("running_statistics", "join_Accumulated"),
        "in-place operations whose alias outlives a branch": (
            "alias_outlives_a_branch", "alias_on_one_path_only", "trap_views_in_a_comprehension"),
        "masked writes h[mask] = …": (
            "masked_writes", "masked_read_and_write", "trap_masked_writes_through_an_alias"),
        "default None state": ("none_default_state", "streaming_with_none_context"),
        "optional arguments": ("optional_arguments", "string_choice"),
        "*args/**kwargs": ("optional_arguments", "decorators", "trap_updates_of_dicts"),
    },
    "results": {
        "nested tuples": ("nested_tuples_lists_dicts", "structure_depends_on_the_path"),
        "dicts": ("dict_with_keys_by_path", "dicts_with_integer_keys"),
        "dataclasses": ("dataclass_output", "dataclass_state"),
        "namedtuples": ("namedtuples", "trap_structures_that_are_unpacked"),
        "ModelOutput": ("model_output", "model_output_to_tuple"),
        "None": ("structure_depends_on_the_path", "first_match_or_default"),
        "Python scalars": ("python_scalars", "trap_numbers_kept_in_lists"),
        "a list whose length depends on the path": ("list_whose_length_depends_on_the_path", "empty_containers"),
    },
    "randomness": {
        "dropout off": ("dropout_off",),
        "sampling: multinomial": ("multinomial_sampling", "top_k_sampling"),
        "sampling: bernoulli": ("bernoulli_and_normal_noise",),
        "sampling: rand thresholds": ("random_threshold",),
        "equality where the noise is an input": (
            "gumbel_gate_with_noise_as_input", "pondernet_noise_as_input", "sampling_with_noise_as_input",
            "rejection_with_noise_as_input"),
    },
    "NumPy in the middle and opaque user functions": {
        "@ec.host_op, by name": ("host_function_in_the_middle", "host_function_decides_a_size"),
        "with a declared signature": ("host_function_with_two_results", f"{HOST}test_declarations_are_checked"),
        "the app supplies it at load": (
            "host_function_in_the_middle", f"{HOST}test_its_absence_is_an_error_at_load"),
        "shape and dtype checked at the boundary": (f"{HOST}test_what_it_gives_is_checked",),
        "NumPy on constants": ("numpy_on_constants",),
    },
}


@functools.cache
def cases() -> dict[str, Case]:
    """The cases of both packages by name."""
    return {**registry.load(), **registry.load("published")}


def is_test(name: str) -> bool:
    """Whether a proof is a test elsewhere, not a case."""
    return "::" in name


def proofs() -> dict[str, None]:
    """The names of all proofs, each once."""
    return dict.fromkeys(
        name for group in CATALOGUE.values() for names in group.values() for name in names)


def test_function(name: str) -> object:
    """The test function of a proof `path::test`. Raises ImportError or AttributeError where there is none."""
    path, _, function = name.partition("::")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), function)


@dataclass(frozen=True)
class Proof:
    """What was compared, all of it equal. `blocks` of the program; `calls` made; `paths` followed with the outcomes of
    tests forced; `edges`: sides of branches that data decides, all of them taken."""

    blocks: int
    calls: int
    paths: int
    edges: int


def prove(case: Case) -> Proof:
    """Compile a case and compare it with eager PyTorch: its calls, random ones, and every branch forced both ways; one
    that draws random numbers by their distribution and seed. Raises AssertionError where they differ."""
    built = build(case)
    blocks = len(built.compiled.program.blocks)
    if not case.exact:
        sampling.assert_distributed_as_in_eager(built)
        sampling.assert_decided_by_the_seed(built)
        return Proof(blocks, sampling.SAMPLES, 0, 0)
    made = 0
    for calls in (built.calls, random_calls(built.calls, 6)):
        built.model.reset()
        target = case.make()[0]
        for call in calls:
            if not case.sequence:
                target = case.make()[0]
            wrong = difference(run(built.model, call), eager(target, call))
            assert wrong == "", (wrong, call.leaves)
            made += 1
    built.model.reset()
    oracle = forced(built)
    report = oracle.check(built.calls, limit=400)
    sides = {(block, side) for block in report.forceable for side in (0, 1)}
    for session in [built.calls] if case.sequence else [(call,) for call in built.calls]:
        for at, first in itertools.product(range(len(session)), (True, False)):
            if sides - report.edges:  # numbers that Python compares are not forced: other calls may hold them
                oracle.compare(session, at, (first,), report)
    assert not sides - report.edges, f"branches with a side that was not taken: {sorted(sides - report.edges)}"
    return Proof(blocks, made, report.paths, len(sides))


def prove_nested(case: Case) -> Proof:
    """`prove` of the case three modules deep, in a comprehension and under decorators."""
    return prove(nested(case))
