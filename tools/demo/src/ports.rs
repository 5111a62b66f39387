//! A check that the tour's ports are free, and the owners of those that are not.

use std::fs;
use std::net::{IpAddr, TcpListener};

use anyhow::{bail, Result};

/// A port and its purpose.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// The address to listen on.
    pub address: IpAddr,
    /// The port; 0 is always free.
    pub port: u16,
    /// The service that is to listen there.
    pub purpose: &'a str,
}

/// Checks that every port is free.
///
/// # Errors
/// When one is not. The error names the port, its purpose and, if the system tells, the process that has it.
pub fn check(ports: &[Port<'_>]) -> Result<()> {
    for port in ports {
        if let Err(error) = TcpListener::bind((port.address, port.port)) {
            let number = port.port;
            let reason = match owner(number) {
                Some(owner) => format!("it is taken by {owner}"),
                None => error.to_string(),
            };
            bail!(
                "port {number} ({}) cannot be listened on: {reason}\nMake it free and run this again.",
                port.purpose
            );
        }
    }
    Ok(())
}

/// The process that listens on the port, if this user may see it.
fn owner(port: u16) -> Option<String> {
    let inodes = listening(port);
    let link = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|process| holds_one(*process, &inodes))?;
    let command = fs::read(format!("/proc/{link}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    Some(format!(
        "process {link}: {}",
        shortened(command.trim(), 100)
    ))
}

/// The numbers of the sockets that listen on the port.
fn listening(port: u16) -> Vec<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table
                .lines()
                .filter_map(|line| inode(line, port))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The socket in a line of `/proc/net/tcp`, if it listens on the port:
/// `0: 0100007F:2710 00000000:0000 0A ... uid timeout inode ...`.
fn inode(line: &str, port: u16) -> Option<String> {
    const LISTENS: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = words.get(1)?.split_once(':')?;
    let is_it = u16::from_str_radix(local, 16) == Ok(port) && *words.get(3)? == LISTENS;
    is_it.then(|| words.get(9).map(|inode| (*inode).to_owned()))?
}

fn holds_one(process: u32, inodes: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else {
        return false;
    };
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| {
            let target = target.to_string_lossy();
            let socket = target
                .strip_prefix("socket:[")
                .and_then(|rest| rest.strip_suffix(']'));
            socket.is_some_and(|socket| inodes.iter().any(|inode| inode == socket))
        })
}

fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn port(port: u16) -> Port<'static> {
        Port {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port,
            purpose: "for a test",
        }
    }

    #[test]
    fn a_taken_port_is_reported_with_its_owner() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = taken.local_addr().unwrap().port();
        let error = check(&[port(0), port(number)]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!(
                "port {number} (for a test) cannot be listened on: "
            )),
            "{error}"
        );
        if cfg!(target_os = "linux") {
            let owner = format!("taken by process {}: ", std::process::id());
            assert!(error.contains(&owner), "{error}");
        }
        drop(taken);
        check(&[port(number)]).unwrap();
    }

    #[test]
    fn only_sockets_that_listen_are_owners() {
        let line = |state: &str| {
            format!("   0: 0100007F:2710 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 4711 1")
        };
        assert_eq!(inode(&line("0A"), 10000).as_deref(), Some("4711"));
        assert_eq!(inode(&line("0A"), 10001), None);
        assert_eq!(inode(&line("06"), 10000), None);
        assert_eq!(inode("  sl  local_address rem_address   st", 10000), None);
    }
}
