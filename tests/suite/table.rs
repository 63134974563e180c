//! The tables of tests/README.md name tests that exist.

use std::process::Command;

#[test]
fn each_test_that_the_readme_names_is_there() {
    let list = Command::new(std::env::current_exe().expect("this program"))
        .args(["--list", "--format", "terse"])
        .output()
        .expect("a list of all tests");
    let list = String::from_utf8(list.stdout).expect("names");
    let tests: Vec<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let readme = include_str!("../README.md");
    let named: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|')?.rsplit_once(" | "))
        .flat_map(|(_, cell)| cell.split('`').skip(1).step_by(2))
        // A test has a name of small letters; a variable of the environment has not.
        .filter(|name| !name.contains(|c: char| c.is_ascii_uppercase()))
        .filter(|name| !name.contains(['/', ' ', '-']) && name.contains('_') || name.contains("::"))
        .collect();
    assert!(named.len() > 40, "{named:?}");
    for name in named {
        let module = format!("{name}::");
        let there = tests.iter().any(|test| *test == name || test.starts_with(&module));
        assert!(there, "tests/README.md names {name}, which does not exist");
    }
}
