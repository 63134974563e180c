//! podrun as its users meet it: scenarios by behaviour, on real root filesystems, with real shims.
//!
//! They need root. `tests/run` installs what they need; by hand, after `cargo build`:
//! `cargo test --test suite -- wait::` runs those of one behaviour.

mod adopt;
mod attacks;
mod bad_input;
mod callers;
mod calls;
mod cgroups;
mod clients;
mod doctor;
mod events;
mod exec;
mod first_thread;
mod fuzz_corpus;
mod harness;
mod health;
mod init;
mod inside;
mod keeper;
mod kills;
mod lifecycle;
mod lifecycles;
mod limits;
mod limits_v1;
mod log_disk;
mod log_drivers;
mod log_exact;
mod log_rotation;
mod logs;
mod mounts;
mod net_devices;
mod oci;
mod oci_bad;
mod oci_conventions;
mod oci_exec;
mod oci_fields;
mod oci_hooks;
mod pause;
mod prune;
mod races;
mod restart;
mod scripts;
mod seccomp;
mod sessions;
mod signals;
mod stuck;
mod supervised_bundle;
mod survive;
mod table;
mod terminal;
mod timeout;
mod upgrade;
mod userns;
mod wait;
mod walls;
