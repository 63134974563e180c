//! What a container is: an OCI `config.json`, plus podrun's own settings in its annotations.
//!
//! ```text
//!  flags ──options──▶ compile ─▶ OCI Spec ─▶ spec.json ─▶ launch
//!              host ────┘ │ the files it mounts over /etc
//!  config.json ─────────────────────▶ validate ──┘
//! ```
//!
//! Pure functions, but for [`host`]: nothing here touches a container.

pub mod bundle;
pub mod compile;
mod defaults;
pub mod device;
pub mod env;
pub mod health;
pub mod host;
pub mod idmap;
pub mod limits;
pub mod logging;
pub mod manager;
pub mod mount_flag;
pub mod net_device;
pub mod options;
mod ordered;
mod profile;
pub mod restart;
pub mod rootfiles;
pub mod settings;
pub mod signal;
mod size;
pub mod terminal;
mod unsupported;
pub mod validate;
pub mod volume;
pub mod walls;

pub use compile::{Compiled, compile};
pub(crate) use defaults::TERM;
pub use oci_spec::runtime::Spec;
pub use options::Options;
pub use ordered::Ordered;
