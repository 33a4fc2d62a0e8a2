//! `ostler certs`: how the certificates are; `ostler certs import`: takes over what certbot has.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{check, operator, refuse};
use crate::admin::api::Status;
use crate::admin::screen;
use crate::certs::{self, import};
use crate::config::ConfigError;
use crate::keeper;

/// Where certbot keeps everything.
const CERTBOT: &str = "/etc/letsencrypt";

const EXAMPLES: &str = "\
ostler certs import                            adopts what is in /etc/letsencrypt
Nothing is asked of a CA, and certbot's folder stays as it is. What was adopted is served
from the next start of `ostler serve` on, and renewed in its time.";

/// The command `certs`.
pub fn command() -> Command {
    Command::new("certs")
        .display_name("ostler")
        .override_usage("ostler certs [OPTIONS]\n       ostler certs import [OPTIONS] [FOLDER]")
        .about("Show the certificates of a running server; `certs import` adopts certbot's")
        .disable_version_flag(true)
        .args_conflicts_with_subcommands(true)
        .args(operator::args())
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("As JSON"),
        )
        .subcommand(
            Command::new("import")
                .display_name("ostler")
                .override_usage("ostler certs import [OPTIONS] [FOLDER]")
                .about("Adopt the certificates that certbot has")
                .after_help(EXAMPLES)
                .disable_version_flag(true)
                .args([
                    Arg::new("folder")
                        .value_name("FOLDER")
                        .default_value(CERTBOT)
                        .help("The folder of certbot"),
                    Arg::new("config")
                        .short('c')
                        .long("config")
                        .value_name("FILE")
                        .help("The operator's file"),
                    operator::on(),
                ]),
        )
}

/// Does what the command line says.
pub fn certs(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some(("import", matches)) => import(matches),
        _ => list(matches),
    }
}

/// Exit code 0 when the server has answered.
fn list(matches: &ArgMatches) -> ExitCode {
    operator::show_status(
        matches,
        |status: &Status| serde_json::to_string_pretty(&status.certificates),
        screen::certificates,
    )
}

/// Exit code 0 when certbot's folder could be read, else 1, or 2 for a wrong `ostler.toml`.
fn import(matches: &ArgMatches) -> ExitCode {
    let around = match super::surroundings() {
        Ok(around) => around,
        Err(errors) => return refuse(&errors),
    };
    let (path, serve) = match check::good(matches, &around) {
        Ok((path, checked)) => (path, checked.serve),
        Err(code) => return code,
    };
    let Some(acme) = &serve.acme else {
        return refuse(&[ConfigError {
            what: "no host needs a certificate from a CA".to_owned(),
            seen: path.display().to_string(),
            hint: "add listen_tls = [\"0.0.0.0:443\"] to [server], and leave certfile out"
                .to_owned(),
        }]);
    };
    let folder = matches
        .get_one::<String>("folder")
        .map_or(CERTBOT, String::as_str);
    let settings = certs::Settings {
        acme: acme.clone(),
        state: keeper::certificates_folder(&serve.state),
    };
    match import::certbot(&around.directory.join(Path::new(folder)), &settings) {
        Ok(report) => match write!(std::io::stdout().lock(), "{report}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
