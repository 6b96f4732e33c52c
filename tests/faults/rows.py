"""The faults that a study survives, each with the tests that show it."""

from __future__ import annotations

_STOP = "tests/faults/test_driver_that_stops.py"
_EVERY = "tests/faults/test_every_call.py"
_FAIL = "tests/faults/test_workers_that_fail.py"
_PARENTS = "tests/faults/test_parents_that_change.py"
_WHOLE = "tests/core/test_atomic.py"
_DOORS = "tests/faults/test_secrets_and_doors.py"
_BAD = "tests/faults/test_bad_inputs.py"
_JOURNAL = "tests/study/journal/test_journal.py"
_RESUME = "tests/study/test_resume.py"
_SCHEDULER = "tests/study/workers/test_scheduler.py"
_CLUSTER = "tests/faults/test_clusters.py"
_CLI = "tests/cli/test_mistakes.py"

# Number: (fault, tests). A test is a file and the beginning of a test's name.
ROWS: dict[int, tuple[str, list[str]]] = {
    1: (
        "driver killed at any moment",
        [
            f"{_RESUME}::test_kill_9_at_30_random_moments_loses",
            f"{_EVERY}::test_a_driver_that_fails_at_some_calls",
        ],
    ),
    2: (
        "worker killed, SIGSEGV, SIGBUS",
        [f"{_FAIL}::test_a_worker_that_dies_or_runs_out_of_memory"],
    ),
    3: (
        "worker out of memory on the host",
        [
            f"{_FAIL}::test_after_running_out_of_memory_batches",
            f"{_FAIL}::test_a_recipe_that_never_fits",
            f"{_FAIL}::test_a_real_worker_under_a_memory_limit",
        ],
    ),
    4: (
        "out of memory on a device",
        [f"{_FAIL}::test_what_libraries_say_is_told_apart"],
    ),
    5: (
        "device broken (ECC, assert, off the bus)",
        [
            f"{_FAIL}::test_a_broken_device_is_used_no_more",
            f"{_FAIL}::test_a_study_whose_every_device",
        ],
    ),
    6: (
        "node preempted (SIGTERM) or lost",
        [
            f"{_STOP}::test_one_signal_stops_within",
            f"{_SCHEDULER}::test_a_lost_worker_is_replaced",
            f"{_CLUSTER}::test_a_node_that_is_lost",
        ],
    ),
    7: ("hung evaluation", [f"{_FAIL}::test_a_worker_that_hangs"]),
    8: ("straggler", [f"{_SCHEDULER}::test_a_straggler_is_done_again"]),
    9: (
        "NaN or infinity in weights or logits",
        [
            f"{_CLI}::test_spoilt_models_are_named_by_search_and_by_build[not_finite]",
            "tests/evaluate/likelihood/test_likelihood.py::test_weights_that_are_not_finite",
        ],
    ),
    10: (
        "a task's code raises on a document",
        [f"{_PARENTS}::test_an_item_that_its_task", f"{_FAIL}::test_a_task_that_raises"],
    ),
    11: ("every candidate fails", [f"{_FAIL}::test_a_study_whose_every_trial"]),
    12: (
        "disk full while the journal is written",
        [f"{_STOP}::test_a_full_disk", f"{_JOURNAL}::test_a_short_write_is_a_full_disk"],
    ),
    13: (
        "disk full while a model or file is written",
        [f"{_WHOLE}::test_a_folder_that_cannot", f"{_WHOLE}::test_a_file_that_cannot"],
    ),
    14: ("fsync fails", [f"{_JOURNAL}::test_after_a_failed_sync"]),
    15: (
        "torn or flipped journal",
        [
            f"{_JOURNAL}::test_cut_at_every_byte",
            f"{_JOURNAL}::test_every_flipped_byte",
            "tests/study/journal/test_repair.py::test_damage_in_the_middle",
        ],
    ),
    16: (
        "parent cut, changed or gone in mid-run",
        [
            f"{_PARENTS}::test_a_study_stops_naming_the_file",
            f"{_PARENTS}::test_a_file_cut_in_place",
            f"{_PARENTS}::test_a_worker_that_starts_after",
        ],
    ),
    17: (
        "hostile safetensors",
        [
            f"{_BAD}::test_a_sample_of_the_bad_inputs",
            f"{_BAD}::test_three_thousand_mutated",
            "tests/checkpoint/sandbox/test_sandbox.py::test_a_child_that_dies_of_its_limits",
            "tests/faults/test_large_inputs.py::test_hostile_files",
        ],
    ),
    18: (
        "two drivers, one stopped",
        [f"{_STOP}::test_a_stopped_driver", f"{_JOURNAL}::test_a_second_writer"],
    ),
    19: ("clock jumps by a day", [f"{_STOP}::test_clocks_that_jump"]),
    20: ("head of the cluster lost", [f"{_CLUSTER}::test_a_head_that_is_lost"]),
    21: (
        "result late or twice",
        [
            f"{_SCHEDULER}::test_a_straggler_is_done_again",
            "tests/study/journal/test_record.py::test_the_first_delivery_of_an_outcome",
            "tests/study/journal/test_record.py::test_the_outcome_table_is_a_dict",
        ],
    ),
    22: (
        "Ctrl-C once, twice",
        [f"{_STOP}::test_one_signal_stops_within", f"{_STOP}::test_a_second_signal"],
    ),
    23: (
        "shapes or tensors differ",
        [
            f"{_CLI}::test_spoilt_models_are_named_by_search_and_by_build[other_shape]",
            f"{_CLI}::test_spoilt_models_are_named_by_search_and_by_build[missing_tensor]",
        ],
    ),
    24: (
        "tokenizers differ",
        [f"{_CLI}::test_spoilt_models_are_named_by_search_and_by_build[other_tokens]"],
    ),
    25: ("values beyond float16", [f"{_PARENTS}::test_merged_values_beyond"]),
    26: ("recipe out of range, NaN", [f"{_BAD}::test_any_document_is_a_recipe"]),
    27: ("study or code changed on resume", [f"{_STOP}::test_a_changed_study"]),
    28: ("space exhausted, duplicates", [f"{_STOP}::test_a_space_of_a_few_points"]),
    29: (
        "leftovers and orphans",
        [
            f"{_WHOLE}::test_what_a_killed_process_left",
            f"{_RESUME}::test_workers_do_not_outlive",
        ],
    ),
    30: ("file system without flock", [f"{_JOURNAL}::test_without_file_locks"]),
    31: ("journal of 10,000 trials", ["tests/study/journal/test_record.py::test_ten_thousand"]),
    32: ("worker of another version", [f"{_FAIL}::test_a_worker_of_other_versions"]),
}
