//! `podrun`: parse → command → exit code. The one place where an error is printed is
//! [`cli::fail`].
#![deny(unsafe_code)]
#![cfg_attr(all(not(test), target_env = "gnu"), no_main)]

mod cli;

podrun::begin!(cli::main);
