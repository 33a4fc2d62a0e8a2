//! Addresses to listen on: `host:port`, `:port`, `[::1]:port`, `unix:path`, `fd://3`. Opens no socket.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Complaint;

/// One `--bind`, ready to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bind {
    /// `addresses` is never empty and has every address the host name stands for, IPv4 only when it has any
    /// (as gunicorn: `localhost` is then one address, also where IPv6 is switched off).
    Tcp {
        host: String,
        port: u16,
        addresses: Vec<SocketAddr>,
    },
    /// An absolute path of at most [`LONGEST_UNIX_PATH`] bytes.
    Unix(PathBuf),
    /// A listening socket that was inherited.
    Fd(i32),
}

/// `sun_path` of `sockaddr_un` has 108 bytes on Linux, the last one a NUL (unix(7)).
pub const LONGEST_UNIX_PATH: usize = 107;

/// gunicorn's port when a `--bind` names only a host.
const DEFAULT_PORT: u16 = 8000;

/// The first descriptor that systemd hands over (sd_listen_fds(3)).
pub const FIRST_INHERITED: i32 = 3;

impl Bind {
    /// `None` where there is none, or nobody can tell.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port, .. } => Some(*port),
            Self::Unix(_) | Self::Fd(_) => None,
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Bind::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
            Bind::Fd(fd) => write!(f, "fd://{fd}"),
        }
    }
}

/// A `--bind` as it is written, its syntax checked, no name looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
    Fd(i32),
}

/// Reads one `--bind` value.
///
/// # Errors
/// Which part of it is wrong, and how it should be written.
pub fn parse(text: &str) -> Result<Address, Complaint> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("unix:") {
        return parse_unix(rest.strip_prefix("//").unwrap_or(rest));
    }
    if let Some(number) = text.strip_prefix("fd://") {
        return match number.parse() {
            Ok(fd) if fd >= 0 => Ok(Address::Fd(fd)),
            _ => Err(Complaint::new(
                format!("has no descriptor number behind \"fd://\" but \"{number}\""),
                "write fd://3 for the first inherited socket",
            )),
        };
    }
    if text.contains(',') {
        return Err(Complaint::new(
            "holds several addresses in one value",
            "repeat --bind, or in gunicorn.conf.py: bind = [\"127.0.0.1:8000\", \"unix:/run/app.sock\"]",
        ));
    }
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    if text.contains('/') {
        return Err(Complaint::new(
            "is neither host:port nor a socket's path behind \"unix:\"",
            "write 127.0.0.1:8000, [::1]:8000, :8000, unix:/run/app.sock or fd://3",
        ));
    }
    parse_tcp(text)
}

fn parse_unix(path: &str) -> Result<Address, Complaint> {
    if path.is_empty() {
        return Err(Complaint::new(
            "has no path behind \"unix:\"",
            "write unix:/run/app.sock",
        ));
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn parse_tcp(text: &str) -> Result<Address, Complaint> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(|| {
                Complaint::new(
                    "has a \"[\" without a \"]\"",
                    "write an IPv6 address as [::1]:8000",
                )
            })?;
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => {
                    return Err(Complaint::new(
                        format!("has \"{after}\" behind the \"]\""),
                        "write an IPv6 address as [::1]:8000",
                    ));
                }
            }
        }
        None if text.matches(':').count() > 1 => {
            return Err(Complaint::new(
                "has several \":\" outside of brackets",
                "write an IPv6 address as [::1]:8000",
            ));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => parse_port(port)?,
    };
    check_host(host)?;
    // gunicorn binds an empty host to every IPv4 address.
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    Ok(Address::Tcp {
        host: host.to_ascii_lowercase(),
        port,
    })
}

fn parse_port(port: &str) -> Result<u16, Complaint> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(Complaint::new(
            format!("has no port number behind the \":\" but \"{port}\""),
            "give a port from 0 to 65535 (0: any free one), as in 127.0.0.1:8000",
        )),
    }
}

fn check_host(host: &str) -> Result<(), Complaint> {
    if host == "*" {
        return Err(Complaint::new(
            "has \"*\" for a host",
            "write 0.0.0.0 for every IPv4 address, [::] for all",
        ));
    }
    if !host.is_empty() && host.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Complaint::new(
            "has a number where the host belongs",
            format!("write :{host} for port {host}"),
        ));
    }
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Complaint::new(
            "has white space in the host",
            "write host:port, as in 127.0.0.1:8000",
        ));
    }
    Ok(())
}

impl Address {
    /// Looks the host name up (this may block on DNS) and makes a path absolute, beneath `directory`.
    ///
    /// # Errors
    /// A name that has no address, a path that is too long for a socket.
    pub fn resolve(self, directory: &Path) -> Result<Bind, Complaint> {
        match self {
            Address::Fd(fd) => Ok(Bind::Fd(fd)),
            Address::Unix(path) => {
                let path = directory.join(path);
                if path.as_os_str().as_bytes().len() > LONGEST_UNIX_PATH {
                    return Err(Complaint::new(
                        format!("has a path of more than {LONGEST_UNIX_PATH} bytes"),
                        "choose a shorter path, for example below /run",
                    ));
                }
                Ok(Bind::Unix(path))
            }
            Address::Tcp { host, port } => {
                let found = (host.as_str(), port).to_socket_addrs().map_err(|error| {
                    Complaint::new(
                        format!("names a host that cannot be found ({error})"),
                        "give an address of this machine, as in 127.0.0.1:8000 or 0.0.0.0:8000",
                    )
                })?;
                let (mut addresses, six): (Vec<SocketAddr>, Vec<_>) =
                    found.partition(SocketAddr::is_ipv4);
                if addresses.is_empty() {
                    addresses = six;
                }
                addresses.dedup();
                Ok(Bind::Tcp {
                    host,
                    port,
                    addresses,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_an_address() {
        let check = |text: &str, expected: Address| assert_eq!(parse(text), Ok(expected), "{text}");
        let tcp = |host: &str, port| Address::Tcp {
            host: host.to_owned(),
            port,
        };
        let unix = |path: &str| Address::Unix(path.into());
        check("127.0.0.1:8000", tcp("127.0.0.1", 8000));
        check("Example.COM:80", tcp("example.com", 80));
        check(":8080", tcp("0.0.0.0", 8080));
        check("", tcp("0.0.0.0", 8000));
        check("localhost", tcp("localhost", 8000));
        check("[::1]:8000", tcp("::1", 8000));
        check("[::]", tcp("::", 8000));
        check("tcp://127.0.0.1:1", tcp("127.0.0.1", 1));
        check("127.0.0.1:0", tcp("127.0.0.1", 0));
        check("unix:/run/a.sock", unix("/run/a.sock"));
        check("unix:///run/a.sock", unix("/run/a.sock"));
        check("unix:a.sock", unix("a.sock"));
        check("fd://3", Address::Fd(3));
    }

    #[test]
    fn refused_addresses() {
        let check = |text: &str, what: &str| {
            let complaint = parse(text).expect_err(text);
            assert!(complaint.what.contains(what), "{text}: {}", complaint.what);
            assert!(!complaint.hint.is_empty());
        };
        check("127.0.0.1:port", "has no port number");
        check("127.0.0.1:", "has no port number");
        check("127.0.0.1:65536", "has no port number");
        check("127.0.0.1:+1", "has no port number");
        check("8000", "number where the host belongs");
        check("::1:8000", "several \":\"");
        check("[::1:8000", "without a \"]\"");
        check("[::1]8000", "behind the \"]\"");
        check("*:80", "\"*\" for a host");
        check("a:1,b:2", "several addresses");
        check("http://127.0.0.1:80", "neither host:port");
        check("/run/a.sock", "neither host:port");
        check("unix:", "no path");
        check("fd://x", "no descriptor number");
        check("fd://-1", "no descriptor number");
        check("a b:80", "white space");
    }

    #[test]
    fn addresses_resolve() {
        let resolve = |text: &str| parse(text).expect("parses").resolve(Path::new("/srv"));
        assert_eq!(resolve("unix:a.sock"), Ok(Bind::Unix("/srv/a.sock".into())));
        assert_eq!(
            resolve("[::1]:80").map(|b| b.to_string()),
            Ok("[::1]:80".to_owned())
        );
        let Ok(Bind::Tcp { addresses, .. }) = resolve("127.0.0.1:80") else {
            panic!("no address")
        };
        assert_eq!(addresses, ["127.0.0.1:80".parse().expect("address")]);
        let long = format!("unix:/{}", "a".repeat(107));
        assert!(
            resolve(&long)
                .expect_err("too long")
                .what
                .contains("107 bytes")
        );
    }
}
