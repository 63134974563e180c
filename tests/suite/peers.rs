//! The OCI scenarios with another runtime under test: which they are, and where crun and runc differ.
//!
//! `tests/peers` runs [`scenarios`] for each runtime that is installed. It starts this test program again for every
//! scenario, with `PODRUN_TEST_PEER` set, and judges how that ended by [`differences`]: who is not in it passes, and who
//! is in it still fails, with what the table says that it shows.

use std::collections::VecDeque;
use std::process::Command;
use std::sync::Mutex;

use differences::{AT_TIMES, Difference, differences};

use crate::harness::in_guest;
use crate::harness::peer::peer;

mod differences;

/// The modules whose scenarios are asked of the others, too, and single scenarios of other modules.
const SET: &[&str] = &[
    "inside::",
    "oci::",
    "oci_conventions::",
    "oci_exec::",
    "oci_fields::",
    "oci_hooks::",
    "spec_linux::",
    "spec_mounts::",
    "spec_process::",
    "mounts::a_device_of_the_configuration_may_be_anywhere",
    "seccomp::a_bundle_has_the_filter_that_it_brings_and_no_other",
    "terminal::an_engine_receives_the_terminal_of_a_process_that_joins",
    "terminal::an_engine_receives_the_terminal_over_its_console_socket",
    "userns::as_engines_write_it_the_rootfs_is_the_engines_to_prepare",
];

/// The same for `tests/guest/run`: limits have all of their controllers there only.
const SET_IN_GUEST: &[&str] = &["spec_resources::"];

/// Of those modules, what is about podrun's own commands, flags and texts.
const PODRUNS_OWN: &[&str] = &[
    "inside::a_network_namespace_can_be_joined_by_path",
    "inside::a_place_for_a_volume_is_made_in_the_overlay_only",
    "inside::an_env_file_gives_variables",
    "inside::anyone_may_open_its_output_again",
    "inside::the_default_environment_has_home_and_hostname",
    "inside::the_host_sees_it_in_the_cgroup_that_state_names",
    "oci::an_environment_that_is_empty_is_enough",
    "oci::errors_go_to_the_log_as_one_json_object",
    "oci_conventions::features_are_told_as_json",
    "oci_conventions::the_configuration_that_spec_prints_runs",
    "oci_conventions::the_processes_inside_are_listed",
    "oci_fields::what_is_not_done_is_refused_by_name",
    "oci_conventions::systemd_is_asked_for_cgroups_only_where_it_is_there",
];

/// Every scenario there is, by the test program's own list.
fn all() -> Vec<String> {
    let own = std::env::current_exe().expect("the path of this program");
    let output = Command::new(own).args(["--list", "--format", "terse"]).output().expect("list the tests");
    let list = String::from_utf8(output.stdout).expect("UTF-8");
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Those of `set` that are asked of the others.
fn selected(set: &[&str]) -> Vec<String> {
    let wanted = |name: &String| {
        let of_set = |one: &&str| if one.ends_with("::") { name.starts_with(*one) } else { name == one };
        set.iter().any(of_set) && !PODRUNS_OWN.contains(&name.as_str())
    };
    all().into_iter().filter(wanted).collect()
}

/// One scenario with `peer`: what is to be said of it, and whether it counts as a failure or a difference.
fn judge(scenario: &str, peer: &str) -> (String, bool, bool) {
    let own = std::env::current_exe().expect("the path of this program");
    let output = Command::new(own)
        .args(["--exact", scenario, "--nocapture"])
        .env("PODRUN_TEST_PEER", peer)
        .output()
        .expect("run a scenario");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let ran = said.contains("running 1 test");
    let is = |one: &&Difference| one.scenario == scenario && one.peer == peer;
    let listed = differences().any(|one| is(&one));
    let of_any = |one: &&Difference| one.scenario.is_empty() && one.peer == peer;
    let at_times = AT_TIMES.iter().filter(|one| is(one) || of_any(one));
    let shown = differences().filter(is).chain(at_times).find(|one| said.contains(one.shows));
    match (output.status.success() && ran, shown) {
        (true, _) if !listed => (format!("ok: {scenario}"), false, false),
        (true, _) => (format!("FAILED: {scenario}: no longer differs"), true, false),
        (false, Some(one)) => (format!("differs: {scenario}: {}", one.why), false, true),
        (false, None) if listed => {
            (format!("FAILED: {scenario}: differs, but not as listed:\n{said}"), true, false)
        }
        (false, None) => (format!("FAILED: {scenario}:\n{said}"), true, false),
    }
}

/// Not a test by itself: what `tests/peers` runs.
#[test]
#[ignore = "tests/peers runs it"]
fn scenarios() {
    let peer = peer().expect("PODRUN_TEST_PEER names a runtime");
    let filter = std::env::var("PODRUN_TEST_PEER_FILTER").unwrap_or_default();
    let (set, place) = if in_guest() { (SET_IN_GUEST, " in the guest") } else { (SET, "") };
    let wanted: Vec<_> = selected(set).into_iter().filter(|name| name.contains(&filter)).collect();
    let count = wanted.len();
    // libtest has written "test … ... " without a newline.
    println!();
    let (left, sums) = (Mutex::new(VecDeque::from(wanted)), Mutex::new((0, 0)));
    let work = || {
        while let Some(scenario) = { left.lock().expect("no panic").pop_front() } {
            let (line, failed, differs) = judge(&scenario, &peer);
            let mut sums = sums.lock().expect("no panic");
            sums.0 += usize::from(failed);
            sums.1 += usize::from(differs);
            println!("peers: {peer}{place}: {line}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (failed, differ) = *sums.lock().expect("no panic");
    println!("peers: {peer}{place}: {count} scenarios, {failed} failed, {differ} differ");
    assert_eq!(failed, 0);
}

#[test]
fn every_name_in_the_lists_is_a_scenario() {
    let (all, selected) = (all(), [selected(SET), selected(SET_IN_GUEST)].concat());
    let single = SET.iter().filter(|name| !name.ends_with("::"));
    for name in PODRUNS_OWN.iter().chain(single) {
        assert!(all.iter().any(|one| one == name), "{name} is no scenario");
    }
    for one in differences() {
        assert!(
            selected.iter().any(|name| name == one.scenario),
            "{} is no scenario of the set",
            one.scenario
        );
    }
}

/// The tables of fields and of differences, without holes and without what is no more.
#[test]
fn the_readme_names_every_option_and_difference_and_only_tests_that_there_are() {
    let readme = include_str!("../README.md");
    let all = all();
    let words: Vec<_> = readme.split('`').skip(1).step_by(2).collect();
    for word in words.iter().filter(|word| word.contains("::")) {
        let is = |one: &String| one == word || one.starts_with(&format!("{word}::"));
        assert!(all.iter().any(is), "{word} is no test");
    }
    for one in differences() {
        let row = |line: &str| line.contains(one.scenario) && line.contains(one.why);
        assert!(readme.lines().any(row), "{} of {} is not in the table", one.scenario, one.peer);
    }
    let podrun = crate::harness::Podrun::new();
    let features: serde_json::Value =
        serde_json::from_str(&podrun.cmd(["features"]).ok()).expect("features are JSON");
    for option in features["mountOptions"].as_array().expect("a list") {
        assert!(words.contains(&option.as_str().expect("a word")), "no row has the mount option {option}");
    }
}
