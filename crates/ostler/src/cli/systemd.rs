//! `ostler systemd`: the unit that has systemd start, watch and reload `ostler serve`. Installs nothing.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::{check, operator, refuse};
use crate::config::ConfigError;
use crate::config::serve::Serve;

const EXAMPLES: &str = "\
ostler systemd --config /etc/ostler/ostler.toml > /etc/systemd/system/ostler.service
systemctl daemon-reload && systemctl enable --now ostler
systemctl reload ostler                        fails, and says why, when the changed file is wrong";

/// How long the last requests and their workers may take beyond `graceful_timeout`, in seconds: what the keeper
/// itself allows, and some air.
const STOP_SLACK: u64 = 60;

/// The command `systemd`.
pub fn command() -> Command {
    Command::new("systemd")
        .display_name("ostler")
        .override_usage("ostler systemd [OPTIONS]")
        .about("Print a unit for systemd that runs ostler serve")
        .after_help(EXAMPLES)
        .disable_version_flag(true)
        .arg(
            Arg::new("config")
                .short('c')
                .long("config")
                .value_name("FILE")
                .help("The operator's file [default: as `ostler serve`]"),
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
    let unit = unit(&program, &around.directory.join(path), &serve);
    match std::io::stdout().lock().write_all(unit.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
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
