//! What podrun tells about itself on stderr, where it is asked to.

use tracing::Level;

use super::{Global, LogLevel};

/// Nothing is set up unless `--debug` or `--log-level` asks for it.
pub(super) fn start(global: &Global) {
    let level = match global.log_level {
        _ if global.debug => Level::DEBUG,
        None => return,
        Some(LogLevel::Error) => Level::ERROR,
        Some(LogLevel::Warn) => Level::WARN,
        Some(LogLevel::Info) => Level::INFO,
        Some(LogLevel::Debug) => Level::DEBUG,
        Some(LogLevel::Trace) => Level::TRACE,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
    tracing::debug!(version = env!("CARGO_PKG_VERSION"), "podrun starts");
}
