//! `ostler certs import`: takes over what certbot has, into the state folder of `ostler.toml`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use super::{check, refuse};
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
        .about("Certificates")
        .disable_version_flag(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
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
                ]),
        )
}

/// Does what the command line says. Exit code 0 when certbot's folder could be read, else 1, or 2 for a wrong
/// `ostler.toml`.
pub fn certs(matches: &ArgMatches) -> ExitCode {
    let Some(("import", matches)) = matches.subcommand() else {
        return ExitCode::FAILURE;
    };
    let around = match super::surroundings() {
        Ok(around) => around,
        Err(errors) => return refuse(&errors),
    };
    let asked = matches.get_one::<String>("config").map(PathBuf::from);
    let (path, outcome) = match check::load(asked.as_deref(), &around) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(&[error]),
    };
    let serve = match outcome {
        Ok(checked) => checked.serve,
        Err(problems) => return check::tell(&problems),
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
    let settings = certs::Settings::new(acme, keeper::certificates_folder(&serve.state));
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
