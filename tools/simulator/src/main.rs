//! The simulator as a program: services from the command line, until it is stopped.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use simulator::{Auth, BackendSettings, ImdsSettings, Settings, Simulator, Tls};
use tokio::signal::unix::{signal, SignalKind};

/// Simulates Azure OpenAI resources and the identity endpoint.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A backend: NAME=PORT[,tls][,host=HOST][,key=KEY][,deployment=NAME]...[,without=API]...; port 0 takes a free one.
    #[arg(long = "backend", value_name = "NAME=PORT[,...]", required = true)]
    backends: Vec<BackendArgument>,
    /// The port of the identity endpoint.
    #[arg(long, default_value_t = 0)]
    imds_port: u16,
    /// The port of the admin endpoint, if there is to be one.
    #[arg(long)]
    admin_port: Option<u16>,
    /// The lifetime of tokens, such as 3600s, 90m or 500ms.
    #[arg(long, default_value = "3600s", value_parser = duration)]
    token_lifetime: Duration,
    /// The remaining lifetime below which a token is replaced, such as 60s. The default is half the lifetime.
    #[arg(long, value_parser = duration)]
    renew_below: Option<Duration>,
    /// The secret of the App Service form of the identity endpoint.
    #[arg(long, default_value = "secret")]
    identity_header: String,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Writes the certificate of the authority that signs the TLS backends' certificates to this file.
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Accepts every request.
    #[arg(long)]
    no_auth: bool,
    /// The number of requests that each service remembers; 0 only counts them.
    #[arg(long, default_value_t = 100_000)]
    audit_limit: usize,
    /// Does not keep request bodies.
    #[arg(long)]
    no_audit_bodies: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

#[derive(Clone)]
struct BackendArgument(BackendSettings);

impl FromStr for BackendArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let first = parts.next().unwrap_or_default();
        let (name, port) = first
            .split_once('=')
            .ok_or("begin with NAME=PORT, as in east=8101")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!(
                "the name {name:?} is not allowed; use visible ASCII characters"
            ));
        }
        let mut backend = BackendSettings::new(name);
        backend.port = port
            .parse()
            .map_err(|_| format!("the port {port:?} is not allowed; use 0 to 65535"))?;
        for part in parts {
            match part.split_once('=') {
                None if part == "tls" => backend.tls = Tls::On,
                Some(("host", host)) => backend.host = host.to_owned(),
                Some(("key", key)) => backend.api_key = Some(key.to_owned()),
                Some(("deployment", deployment)) => {
                    backend
                        .deployments
                        .get_or_insert_default()
                        .push(deployment.to_owned());
                }
                Some(("without", api)) => backend
                    .not_enabled
                    .push(api.parse().map_err(|error| format!("{part:?}: {error}"))?),
                _ => {
                    return Err(format!(
                        "{part:?} is unknown; use tls, host=, key=, deployment= or without="
                    ))
                }
            }
        }
        Ok(Self(backend))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || {
        format!("{text:?} is not a duration; use a number and a unit, as in 3600s, 90m or 500ms")
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    Ok(Duration::from_millis(
        number.checked_mul(unit).ok_or_else(wrong)?,
    ))
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let simulator = Simulator::start(Settings {
        backends: arguments
            .backends
            .into_iter()
            .map(|backend| backend.0)
            .collect(),
        imds: ImdsSettings {
            port: arguments.imds_port,
            token_lifetime: arguments.token_lifetime,
            renew_below: arguments.renew_below,
            identity_header: arguments.identity_header,
            ..ImdsSettings::default()
        },
        admin_port: arguments.admin_port,
        bind: arguments.bind,
        auth: if arguments.no_auth {
            Auth::Off
        } else {
            Auth::On
        },
        audit_limit: arguments.audit_limit,
        audit_bodies: !arguments.no_audit_bodies,
        threads: arguments.threads,
    })?;
    if let Some(file) = &arguments.ca_out {
        std::fs::write(file, simulator.ca_pem())?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        announce(&simulator)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn announce(simulator: &Simulator) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for backend in simulator.backends() {
        let scheme = if backend.tls() { "https" } else { "http" };
        writeln!(
            out,
            "backend {} {scheme}://{} host {}",
            backend.name(),
            backend.addr(),
            backend.host()
        )?;
    }
    writeln!(out, "imds http://{}", simulator.imds().addr())?;
    if let Some(addr) = simulator.admin_addr() {
        writeln!(out, "admin http://{addr}/admin/")?;
    }
    writeln!(out, "ready")?;
    out.flush()
}
