//! The rate limit service as a program, until it is stopped.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use ratelimit::{Clock, Limits, Server, Settings, Store};
use tokio::signal::unix::{signal, SignalKind};

/// Counts for all Envoys together, in place of Envoy's reference service. For tests and the demo only.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The file of limits, which `azure-openai-balancer render ratelimit` makes.
    limits: PathBuf,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// The Redis that counts; without it, this process counts.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
}

fn main() -> Result<(), String> {
    let arguments = Arguments::parse();
    let file = arguments.limits.display();
    let text = fs::read_to_string(&arguments.limits).map_err(|error| format!("{file}: {error}"))?;
    let limits = Limits::parse(&text).map_err(|error| format!("{file}: {error}"))?;
    let settings = Settings {
        address: arguments.listen,
        limits,
        store: arguments.redis.map_or(Store::Memory, Store::Redis),
        clock: Clock::System,
    };
    let server =
        Server::start(settings).map_err(|error| format!("{}: {error}", arguments.listen))?;
    println!("listening on {}", server.address());
    wait_for_the_end().map_err(|error| error.to_string())
}

#[tokio::main(flavor = "current_thread")]
async fn wait_for_the_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
