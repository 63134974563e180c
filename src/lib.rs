//! podrun: a daemonless container runtime for Linux.
//!
//! This library is everything that the command line (`podrun`) and the supervisor
//! (`podrun-shim`) share: the types, the files, the protocol and the launch code.
//!
//! ```text
//!                                 ┌─ podrun-shim ──────┐
//!  podrun create/run ──spawns──▶ keeper ──fork──▶ shim ──clone3──▶ init ──execve──▶ CMD
//!      │ exits                     │                │  owns init by pidfd, has its output logged,
//!      ▼                           │                │  writes the exit record, answers on a socket
//!   (gone)                         └─ holds what a shim cannot get again, and forks the next one
//!
//!  podrun exec/kill/wait/upgrade ──frames──▶ shim      shim, podrun ──a line each──▶ podrun events
//!
//!  podrun create --bundle (OCI mode) ──clone3──▶ init; no shim, the caller supervises
//! ```
//!
//! One way through: command line → [`spec`] → [`client`] → control socket ([`protocol`]) →
//! supervisor → [`launch`] → `execve`.
//!
//! Imports go one way only; nothing below names anything above it:
//!
//! ```text
//!  cli ─▶ everything but the inside of launch and sys      (cli lives in the `podrun` binary)
//!  supervisor ─▶ this library                              (its own crate)
//!  client ─▶ runtime, events, protocol, and of launch the hooks
//!  runtime ─▶ launch, events, protocol                     launch ─▶ state, spec, cgroup, sys
//!  protocol ─▶ state, spec, sys        events ─▶ state     log ─▶ spec
//!  state ─▶ spec, cgroup, paths        spec ─▶ cgroup, paths
//!  cgroup ─▶ paths, sys                paths ─▶ error      sys, error ─▶ nothing
//! ```

pub mod cgroup;
pub mod client;
pub mod error;
pub mod events;
pub mod launch;
pub mod log;
pub mod paths;
pub mod protocol;
pub mod runtime;
pub mod spec;
pub mod state;
pub mod sys;
