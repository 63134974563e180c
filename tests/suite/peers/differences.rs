//! Where crun 1.8.1 and runc 1.1.5 differ, and what shows it: [`specification`] has what they differ in from the examples
//! of the specification, this file the rest.

mod specification;

/// What a runtime does not do, or does otherwise.
pub(super) struct Difference {
    pub(super) scenario: &'static str,
    pub(super) peer: &'static str,
    /// What the scenario's failure says there.
    pub(super) shows: &'static str,
    pub(super) why: &'static str,
}

const fn differs(
    scenario: &'static str,
    peer: &'static str,
    shows: &'static str,
    why: &'static str,
) -> Difference {
    Difference { scenario, peer, shows, why }
}

/// All of them.
pub(super) fn differences() -> impl Iterator<Item = &'static Difference> {
    OCI.iter().chain(specification::SPECIFICATION)
}

const OCI: &[Difference] = &[
    differs(
        "mounts::a_device_of_the_configuration_may_be_anywhere",
        "runc",
        "error reopening /dev/null inside",
        "wants the null device in a file system that allows devices",
    ),
    differs(
        "oci::a_bad_bundle_is_refused_and_leaves_nothing",
        "crun",
        "/changed o",
        "a NUL byte ends a text",
    ),
    differs(
        "oci_conventions::the_texts_that_engines_look_for",
        "crun",
        "podrun ps o` (code None, signal Some(11))",
        "`ps` of a container that has ended crashes",
    ),
    differs(
        "oci_conventions::the_texts_that_engines_look_for",
        "runc",
        "no failure: `podrun ps o`",
        "`ps` of a container that has ended is an empty list",
    ),
    differs(
        "oci_exec::a_process_joins_and_its_exit_code_is_ours",
        "crun",
        "executable file `sh` not found in $PATH",
        "`exec --env` takes the place of the whole environment, and of `PATH`",
    ),
    differs(
        "oci_exec::a_service_manager_hears_the_container",
        "crun",
        "WouldBlock",
        "passes no message on after `create`",
    ),
    differs(
        "oci_exec::a_service_manager_hears_the_container",
        "runc",
        "WouldBlock",
        "passes no message on after `create`",
    ),
    differs(
        "oci_exec::descriptors_of_the_caller_are_passed_on_as_asked",
        "crun",
        "no failure: `sh -euc podrun exec --preserve-fds 2",
        "a descriptor that is not open is none to `exec --preserve-fds`",
    ),
    differs(
        "oci_exec::descriptors_of_the_caller_are_passed_on_as_asked",
        "runc",
        "no failure: `sh -euc podrun exec --preserve-fds 2",
        "a descriptor that is not open is none to `exec --preserve-fds`",
    ),
    differs(
        "oci_exec::one_more_capability_may_be_given",
        "crun",
        "CapEff:\\t0000000008002000",
        "`exec --cap` takes the place of all capabilities",
    ),
    differs(
        "oci_exec::one_more_capability_may_be_given",
        "runc",
        "no failure: `podrun exec --cap CAP_X",
        "an unknown capability is a warning",
    ),
    differs(
        "oci_exec::sockets_of_a_service_manager_are_passed_on",
        "crun",
        "left: \"1 1\\nthree\"",
        "no `LISTEN_PID`",
    ),
    differs(
        "oci_exec::sockets_of_a_service_manager_are_passed_on",
        "runc",
        "left: \"1\\n\"",
        "no `LISTEN_FDS` for `create`",
    ),
    differs(
        "oci_exec::the_process_may_come_as_json",
        "crun",
        "no failure: `podrun exec --process",
        "takes a process whose `cwd` is relative",
    ),
    differs("oci_exec::the_process_may_come_as_json", "runc", "0022", "no `user.umask` for `exec`"),
    differs(
        "oci_exec::without_pivot_root_the_host_is_as_far_away",
        "runc",
        "not an absolute path, or a symlink",
        "no root behind a link",
    ),
    differs(
        "oci_fields::a_memory_policy_is_set_or_refused_by_name",
        "crun",
        "default file=",
        "passes `memoryPolicy` over",
    ),
    differs(
        "oci_fields::a_memory_policy_is_set_or_refused_by_name",
        "runc",
        "default file=",
        "passes `memoryPolicy` over",
    ),
    differs("oci_fields::a_personality_is_taken", "crun", "a failure", "takes a flag that there is none of"),
    differs("oci_fields::a_personality_is_taken", "runc", "00000000", "passes `personality` over"),
    differs(
        "oci_fields::a_process_is_scheduled_as_it_asks",
        "crun",
        "SCHED_OTHER",
        "passes `scheduler` and `ioPriority` over",
    ),
    differs(
        "oci_fields::a_process_is_scheduled_as_it_asks",
        "runc",
        "SCHED_OTHER",
        "passes `scheduler` and `ioPriority` over",
    ),
    differs(
        "oci_fields::a_process_that_joins_has_its_cpus",
        "crun",
        "Cpus_allowed_list:",
        "passes `execCPUAffinity` over",
    ),
    differs(
        "oci_fields::a_process_that_joins_has_its_cpus",
        "runc",
        "Cpus_allowed_list:",
        "passes `execCPUAffinity` over",
    ),
    differs(
        "oci_fields::a_time_namespace_has_clocks_of_its_own",
        "crun",
        "create failed with",
        "no time namespace",
    ),
    differs(
        "oci_fields::a_time_namespace_has_clocks_of_its_own",
        "runc",
        "does not exist",
        "no time namespace",
    ),
    differs(
        "oci_fields::an_exec_has_the_clocks_of_the_container",
        "crun",
        "create failed with",
        "no time namespace",
    ),
    differs(
        "oci_fields::an_exec_has_the_clocks_of_the_container",
        "runc",
        "does not exist",
        "no time namespace",
    ),
    differs(
        "oci_fields::devices_and_hidden_and_read_only_places",
        "runc",
        "(none)",
        "passes `domainname` over",
    ),
    differs(
        "oci_fields::the_root_is_propagated_as_asked",
        "runc",
        "left: (\"0\\n\"",
        "the root is never `shared` or `unbindable`",
    ),
    differs(
        "oci_hooks::a_hook_that_cannot_be_one_is_refused_by_name",
        "crun",
        "a failure",
        "takes a `path` that is relative",
    ),
    differs(
        "oci_hooks::each_runs_at_its_moment_and_in_its_namespaces",
        "crun",
        "prestart created",
        "the state is `created`, not `creating`, while it is created, and has no pid inside",
    ),
    differs(
        "oci_hooks::each_runs_at_its_moment_and_in_its_namespaces",
        "runc",
        "poststart created",
        "the state is not `running` for `poststart`, and has no pid for `poststop`",
    ),
    differs(
        "oci_hooks::one_that_fails_afterwards_changes_nothing",
        "runc",
        "error running hook #0: fork/exec /no/such/hook",
        "`poststart` runs in the order it likes, and one that fails ends the container",
    ),
    differs(
        "oci_hooks::one_that_fails_before_the_command_fails_the_container",
        "crun",
        "no failure: `podrun start o`",
        "`start` succeeds where a `startContainer` hook fails",
    ),
    differs(
        "oci_hooks::one_that_fails_before_the_command_fails_the_container",
        "runc",
        "no failure: `podrun start o`",
        "`start` succeeds where a `startContainer` hook fails",
    ),
    differs(
        "oci_hooks::what_hooks_have_set_up_is_put_away_where_the_container_is_not_created",
        "crun",
        "a failure",
        "no `poststop` after a `create` that failed, whose exit code is 255",
    ),
    differs(
        "terminal::an_engine_receives_the_terminal_of_a_process_that_joins",
        "crun",
        "no failure: `podrun exec --console-socket",
        "`exec` takes a console socket without a terminal",
    ),
    differs(
        "userns::as_engines_write_it_the_rootfs_is_the_engines_to_prepare",
        "runc",
        "mounting \\\"sysfs\\\"",
        "no sysfs in a user namespace with the network of the host",
    ),
];

/// What a runtime cannot do on some hosts, or fails at in some runs only: not a failure, but nor has it to be so.
/// An empty scenario is any.
pub(super) const AT_TIMES: &[Difference] = &[
    differs(
        "",
        "crun",
        "setrlimit (RLIM_MEMLOCK): Operation not permitted",
        "loads its program for devices only with CAP_SYS_RESOURCE",
    ),
    differs(
        "oci_hooks::a_state_of_any_size_is_read_or_not_read",
        "crun",
        "writing to pipe: Broken pipe",
        "a hook that does not read a large state fails",
    ),
    differs(
        "spec_process::the_examples_hooks_run_in_order_with_their_arguments_and_environment",
        "crun",
        "\"notify-start none\", \"refresh-ldcache\"",
        "`poststart` runs without waiting for the end of `startContainer`",
    ),
    differs(
        "oci_exec::descriptors_of_the_caller_are_passed_on_as_asked",
        "crun",
        "exec.fifo (deleted)",
        "`start` returns before the command is executed",
    ),
    differs(
        "oci_hooks::one_that_fails_before_the_command_fails_the_container",
        "crun",
        "container `o` already exists",
        "a container whose `create` failed may still be there",
    ),
    differs(
        "oci_exec::detached_it_runs_on_and_belongs_to_nobody_of_podruns",
        "runc",
        "runc:[2:INIT]",
        "`exec --detach` returns before the command is executed",
    ),
    differs("", "crun", "signal Some(13)", "a hook that does not read its state ends it by SIGPIPE"),
];
