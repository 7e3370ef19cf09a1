//! Tapwall's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    fw_agent::cli::main()
}
