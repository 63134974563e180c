//! podrun: a daemonless container runtime for Linux.
//!
//! This library is everything that the command line (`podrun`) and the supervisor
//! (`podrun-shim`) share: the types, the files, the protocol and the launch code.
//!
//! ```text
//!  podrun create/run ──spawns──▶ podrun-shim ──clone3──▶ init ──execve──▶ CMD
//!      │ exits                     │  owns init by pidfd, pumps its output into the log,
//!      ▼                           │  writes the exit record, answers on a socket
//!   (gone)      podrun exec/kill/wait ──frames──▶ shim
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
//!  client ─▶ protocol, paths, state, sys       runtime ─▶ launch, protocol, state
//!  launch ─▶ spec, sys        protocol ─▶ spec, state, sys  log ─▶ paths, error
//!  state ─▶ paths, sys        spec ─▶ cgroup, error          cgroup ─▶ paths, sys
//!  paths ─▶ error             sys ─▶ nothing
//! ```

pub mod cgroup;
pub mod client;
pub mod error;
pub mod launch;
pub mod log;
pub mod paths;
pub mod protocol;
pub mod runtime;
pub mod spec;
pub mod state;
pub mod sys;
