//! `ostler systemd`: the unit that has systemd start, watch and reload `ostler serve`, and the one that has it bind the
//! addresses. Installs nothing.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{check, operator, refuse};
use crate::config::serve::Serve;
use crate::config::{Bind, ConfigError};

const EXAMPLES: &str = "\
ostler systemd --config /etc/ostler/ostler.toml > /etc/systemd/system/ostler.service
systemctl daemon-reload && systemctl enable --now ostler
systemctl reload ostler                        fails, and says why, when the changed file is wrong
ostler systemd --socket --config /etc/ostler/ostler.toml > /etc/systemd/system/ostler.socket
systemctl enable --now ostler.socket           systemd binds the addresses: who connects during a restart waits";

/// How long the last requests and their workers may take beyond `graceful_timeout`, in seconds: what the keeper
/// itself allows, and some air.
const STOP_SLACK: u64 = 60;

/// The command `systemd`.
pub fn command() -> Command {
    Command::new("systemd")
        .display_name("ostler")
        .override_usage("ostler systemd [OPTIONS]")
        .about("Print units for systemd that run ostler serve")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .arg(
            Arg::new("config")
                .short('c')
                .long("config")
                .value_name("FILE")
                .help("The operator's file [default: as `ostler serve`]"),
        )
        .arg(
            Arg::new("socket")
                .long("socket")
                .action(ArgAction::SetTrue)
                .help("Print the unit beside it that has systemd bind `listen` and `listen_tls`"),
        )
        .arg(operator::on())
}

/// Exit code 0 when the file is good, since the unit would not start otherwise.
pub fn systemd(matches: &ArgMatches) -> ExitCode {
    let around = match super::surroundings() {
        Ok(around) => around,
        Err(errors) => return refuse(&errors),
    };
    let (path, serve) = match check::good(matches, &around) {
        Ok((path, checked)) => (path, checked.serve),
        Err(code) => return code,
    };
    if matches.get_flag("socket") {
        return match socket_unit(&serve) {
            Ok(unit) => show(&unit),
            Err(error) => refuse(&[error]),
        };
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            return refuse(&[ConfigError {
                what: "the path of ostler itself cannot be found".to_owned(),
                seen: error.to_string(),
                hint: "start it by its path, with /proc mounted".to_owned(),
            }]);
        }
    };
    show(&unit(&program, &around.directory.join(path), &serve))
}

fn show(unit: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(unit.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The text of the unit for the addresses (systemd.socket(5)), which `ostler serve` knows again by what they are bound
/// to.
fn socket_unit(serve: &Serve) -> Result<String, ConfigError> {
    let listening = &serve.machine.listening;
    let (mut tcp, mut lines): (Vec<SocketAddr>, Vec<String>) = Default::default();
    for bind in listening.binds.iter().chain(&listening.tls_binds) {
        match bind {
            Bind::Tcp { addresses, .. } => {
                lines.extend(addresses.iter().map(ToString::to_string));
                tcp.extend(addresses);
            }
            Bind::Unix(path) => lines.push(path.to_string_lossy().replace('%', "%%")),
            // Somebody else hands it over.
            Bind::Fd(_) => {}
        }
    }
    if lines.is_empty() || tcp.iter().any(|address| address.port() == 0) {
        return Err(ConfigError {
            what: "no socket unit can be made".to_owned(),
            seen: "no address of the file, or one with the port 0, for any free one".to_owned(),
            hint: "write `listen` and `listen_tls` with the ports that visitors come to".to_owned(),
        });
    }
    let lines = lines.iter().map(|line| format!("ListenStream={line}\n"));
    let lines: String = lines.collect();
    let (backlog, both) = (listening.backlog, both(&tcp));
    Ok(format!(
        "\
# Made by `ostler systemd --socket`. Install it as /etc/systemd/system/ostler.socket, beside ostler.service.
[Unit]
Description=Addresses of ostler

[Socket]
# As `listen` and `listen_tls` have them: by that they are known again.
{lines}BindIPv6Only={both}
Backlog={backlog}

[Install]
WantedBy=sockets.target
"
    ))
}

/// `[::]` takes IPv4 too, as ostler binds it, unless that has a socket of its own.
fn both(addresses: &[SocketAddr]) -> &'static str {
    let has = |ip: IpAddr, port| addresses.contains(&SocketAddr::new(ip, port));
    let all = addresses
        .iter()
        .filter(|address| address.ip() == Ipv6Addr::UNSPECIFIED);
    let mut ports = all.map(SocketAddr::port);
    match ports.any(|port| has(Ipv4Addr::UNSPECIFIED.into(), port)) {
        true => "ipv6-only",
        false => "both",
    }
}

/// The text of the unit (systemd.service(5), systemd.exec(5)). What is forbidden is what neither ostler nor a web
/// app needs; an app that does names its own in a drop-in (`systemctl edit ostler`).
fn unit(program: &Path, config: &Path, serve: &Serve) -> String {
    let (program, config) = (argument(program), argument(config));
    let stop = longest_graceful(serve) + STOP_SLACK;
    format!(
        "\
# Made by `ostler systemd`. Install it as /etc/systemd/system/ostler.service.
[Unit]
Description=ostler: Python web apps
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} serve --config {config}
# Waits until what changed serves, and fails with every problem when the file is wrong.
ExecReload={program} reload --config {config}
Restart=on-failure
RestartSec=1
# The keeper ends its processes itself, in their order.
KillMode=mixed
TimeoutStopSec={stop}
LimitNOFILE=1048576

NoNewPrivileges=yes
ProtectSystem=full
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
# Ports below 1024, other users for server and apps, their files, and an end for them.
CapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_KILL

[Install]
WantedBy=multi-user.target
"
    )
}

/// The longest time that the requests of a project may take to end, in seconds.
fn longest_graceful(serve: &Serve) -> u64 {
    /// gunicorn's.
    const USUAL: f64 = 30.0;
    let named = |web: &crate::config::written::Layer| web.get("graceful_timeout")?.as_f64();
    let times = serve
        .projects
        .iter()
        .filter_map(|project| named(&project.web));
    times.fold(USUAL, f64::max).ceil() as u64
}

/// A word of a command line (systemd.service(5), "Command lines" and "Specifiers").
fn argument(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@,:%$".contains(c);
    match text.chars().all(plain) {
        true => text,
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word() {
        for (path, word) in [
            ("/etc/ostler/ostler.toml", "/etc/ostler/ostler.toml"),
            ("/srv/100%/$a.toml", "/srv/100%%/$$a.toml"),
            ("/srv/my shop/\"a\\b", "\"/srv/my shop/\\\"a\\\\b\""),
        ] {
            assert_eq!(argument(Path::new(path)), word);
        }
    }
}
