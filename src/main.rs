//! `podrun`: parse → command → exit code. The one place where an error is printed is
//! [`cli::fail`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
