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
_LOCK = "tests/study/journal/test_lock.py"
_RESUME = "tests/study/test_resume.py"
_SCHEDULER = "tests/study/workers/test_scheduler.py"
_CLUSTER = "tests/faults/test_clusters.py"
_CLI = "tests/cli/test_mistakes.py"

# Number: (fault, tests). A test is named in full; without brackets, all its parameters count.
ROWS: dict[int, tuple[str, list[str]]] = {
    1: (
        "driver killed at any moment",
        [
            f"{_RESUME}::test_kill_9_at_30_random_moments_loses_nothing_and_changes_nothing",
            f"{_EVERY}::test_a_driver_that_fails_at_some_calls_of_a_point_resumes_to_the_same_end",
        ],
    ),
    2: (
        "worker killed, SIGSEGV, SIGBUS",
        [f"{_FAIL}::test_a_worker_that_dies_or_runs_out_of_memory_anywhere_changes_nothing"],
    ),
    3: (
        "worker out of memory on the host",
        [
            f"{_FAIL}::test_after_running_out_of_memory_batches_are_halved_and_stay_so_when_resumed",
            f"{_FAIL}::test_a_recipe_that_never_fits_fails_as_out_of_memory_after_three_attempts",
            f"{_FAIL}::test_a_real_worker_under_a_memory_limit_is_out_of_memory_and_not_a_fault",
        ],
    ),
    4: (
        "out of memory on a device",
        [f"{_FAIL}::test_errors_of_libraries_are_classified"],
    ),
    5: (
        "device broken (ECC, assert, off the bus)",
        [
            f"{_FAIL}::test_a_broken_device_is_used_no_more_and_what_it_scored_is_scored_again",
            f"{_FAIL}::test_a_study_whose_every_device_is_broken_stops_and_says_what_it_said",
        ],
    ),
    6: (
        "node preempted (SIGTERM) or lost",
        [
            f"{_STOP}::test_one_signal_stops_and_says_how_to_go_on",
            f"{_SCHEDULER}::test_a_lost_worker_is_replaced_and_its_unit_tried_again",
            f"{_CLUSTER}::test_a_node_that_is_lost_and_replaced_in_mid_study_changes_nothing",
        ],
    ),
    7: (
        "hung evaluation",
        [f"{_FAIL}::test_a_worker_that_hangs_is_killed_and_its_work_is_done_by_another"],
    ),
    8: (
        "straggler",
        [
            f"{_SCHEDULER}::test_a_straggler_is_done_again_by_an_idle_worker_and_the_first_answer_counts"
        ],
    ),
    9: (
        "NaN or infinity in weights or logits",
        [
            f"{_CLI}::test_spoilt_models_are_named_by_search_and_by_build[not_finite]",
            "tests/evaluate/likelihood/test_likelihood.py::test_weights_that_are_not_finite_are_reported_with_their_item",
        ],
    ),
    10: (
        "a task's code raises on a document",
        [
            f"{_PARENTS}::test_an_item_that_its_task_cannot_grade_counts_as_wrong_and_many_fail_the_trial",
            f"{_FAIL}::test_a_task_that_raises_fails_its_trials_alone",
        ],
    ),
    11: (
        "every candidate fails",
        [f"{_FAIL}::test_a_study_whose_every_trial_fails_stops_with_the_cause"],
    ),
    12: (
        "disk full while the journal is written",
        [
            f"{_STOP}::test_a_full_disk_stops_with_one_line_and_the_run_resumes_when_there_is_space",
            f"{_JOURNAL}::test_a_short_write_is_a_full_disk_and_what_came_before_stays",
        ],
    ),
    13: (
        "disk full while a model or file is written",
        [
            f"{_WHOLE}::test_a_folder_that_cannot_be_written_leaves_the_old_one_and_nothing_else",
            f"{_WHOLE}::test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else",
        ],
    ),
    14: (
        "fsync fails",
        [f"{_JOURNAL}::test_after_a_failed_sync_the_journal_is_closed_and_ends_with_a_whole_event"],
    ),
    15: (
        "torn or flipped journal",
        [
            f"{_JOURNAL}::test_cut_at_every_byte_the_whole_frames_come_back_and_writing_goes_on",
            f"{_JOURNAL}::test_every_flipped_byte_is_refused_in_the_middle_or_cut_off_at_the_tail",
            "tests/study/journal/test_repair.py::test_damage_in_the_middle_names_the_command_that_mends_it_and_that_command_does",
        ],
    ),
    16: (
        "parent cut, changed or gone in mid-run",
        [
            f"{_PARENTS}::test_a_study_stops_naming_the_file_and_goes_on_when_it_is_put_back",
            f"{_PARENTS}::test_a_file_cut_in_place_under_a_worker_that_dies_of_it_is_named",
            f"{_PARENTS}::test_a_worker_that_starts_after_the_change_does_not_use_the_new_file",
        ],
    ),
    17: (
        "hostile safetensors",
        [
            f"{_BAD}::test_a_sample_of_the_bad_inputs_is_told_in_one_line",
            f"{_BAD}::test_three_thousand_mutated_weight_files_load_or_are_told_in_one_line",
            "tests/checkpoint/sandbox/test_sandbox.py::test_a_child_that_dies_of_its_limits_is_the_files_fault",
            "tests/faults/test_large_inputs.py::test_hostile_files_take_little_memory_and_time_in_the_process_and_its_child",
        ],
    ),
    18: (
        "two drivers, one stopped",
        [
            f"{_STOP}::test_a_stopped_driver_keeps_its_run_and_a_second_one_is_told_who_it_is",
            f"{_LOCK}::test_a_second_writer_is_told_who_holds_the_journal_and_readers_are_not_stopped",
        ],
    ),
    19: ("clock jumps by a day", [f"{_STOP}::test_clocks_that_jump_by_a_day_change_nothing"]),
    20: (
        "head of the cluster lost",
        [f"{_CLUSTER}::test_a_head_that_is_lost_ends_the_command_and_a_new_cluster_resumes_it"],
    ),
    21: (
        "result late or twice",
        [
            f"{_SCHEDULER}::test_a_straggler_is_done_again_by_an_idle_worker_and_the_first_answer_counts",
            "tests/study/journal/test_record.py::test_the_first_delivery_of_an_outcome_counts_and_a_different_one_is_noticed",
            "tests/study/journal/test_record.py::test_the_outcome_table_is_a_dict_that_keeps_what_came_first",
        ],
    ),
    22: (
        "Ctrl-C once, twice",
        [
            f"{_STOP}::test_one_signal_stops_and_says_how_to_go_on",
            f"{_STOP}::test_a_second_signal_ends_at_once_and_the_run_still_resumes",
        ],
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
    25: (
        "values beyond float16",
        [f"{_PARENTS}::test_merged_values_beyond_float16_fail_the_trial_and_name_the_tensor"],
    ),
    26: (
        "recipe out of range, NaN",
        [f"{_BAD}::test_any_document_is_a_recipe_or_the_users_mistake"],
    ),
    27: (
        "study or code changed on resume",
        [
            f"{_STOP}::test_a_changed_study_is_refused_with_every_difference_or_goes_on_and_is_recorded"
        ],
    ),
    28: (
        "space exhausted, duplicates",
        [f"{_STOP}::test_a_space_of_a_few_points_ends_and_equal_recipes_are_paid_for_once"],
    ),
    29: (
        "leftovers and orphans",
        [
            f"{_WHOLE}::test_leftovers_of_a_killed_process_are_swept_and_files_of_a_living_one_are_not",
            f"{_RESUME}::test_workers_do_not_outlive_a_killed_driver",
        ],
    ),
    30: (
        "file system without flock",
        [f"{_LOCK}::test_without_file_locks_the_lock_file_decides_with_a_warning"],
    ),
    31: (
        "journal of 10,000 trials",
        [
            "tests/study/journal/test_record.py::test_ten_thousand_trials_are_read_in_seconds_and_megabytes"
        ],
    ),
    32: ("worker of another version", [f"{_FAIL}::test_a_worker_of_other_versions_is_refused"]),
}
