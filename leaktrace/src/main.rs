//! The `leaktrace` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    leaktrace::cli::run()
}
