//! The tool `azure-openai-balancer`: checks configurations, and makes complete ones from a list of backends.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::run(cli::arguments::Arguments::parse())
}
