//! What a container is: an OCI `config.json`, plus podrun's own settings in its annotations.
//!
//! ```text
//!  flags ──options──▶ compile ─▶ OCI Spec ─▶ spec.json ─▶ launch
//!  config.json ─────────────────────▶ validate ──┘
//! ```
//!
//! Pure functions: nothing here touches a container.

pub mod settings;

pub use oci_spec::runtime::Spec;
