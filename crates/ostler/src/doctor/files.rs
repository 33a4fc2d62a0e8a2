//! Keys, key files, the hook of dns-01, and the Pythons. Runs nothing: what belongs to an app is not to be started by
//! who asks, who may be root.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::{Case, Finding, ok, problem, warning};
use crate::config::serve::{Challenge, TokenKeys};
use crate::config::{Account, Settings};
use crate::sys::users::{self, User};

/// The oldest Python that ostler takes.
const OLDEST: (u32, u32) = (3, 9);

pub fn look(case: &Case, found: &mut Vec<Finding>) {
    hook(case, found);
    private_keys(case, found);
    key_files(case, found);
    for (name, settings) in &case.projects {
        found.push(match settings {
            Ok(settings) => python(case, name, settings),
            Err(text) => problem("python", format!("{name}: {text}")),
        });
    }
}

fn hook(case: &Case, found: &mut Vec<Finding>) {
    let Some(acme) = case
        .serve
        .acme
        .as_ref()
        .filter(|acme| acme.challenge == Challenge::Dns01)
    else {
        return;
    };
    found.push(match &acme.hook {
        None => problem(
            "hook",
            "dns-01 needs a program that sets TXT records; hint: `hook` of [acme]",
        ),
        Some(path) => match fs::metadata(path) {
            Err(error) => problem(
                "hook",
                format!(
                    "{}: {error}; hint: correct `hook` of [acme]",
                    path.display()
                ),
            ),
            Ok(about) if !about.is_file() || about.permissions().mode() & 0o111 == 0 => problem(
                "hook",
                format!("{} is no program; hint: chmod +x", path.display()),
            ),
            Ok(_) => ok("hook", format!("{} is there", path.display())),
        },
    });
}

/// Private keys in the operator's files: read by the keeper, and nobody else's business.
fn private_keys(case: &Case, found: &mut Vec<Finding>) {
    let own = case
        .serve
        .projects
        .iter()
        .filter_map(|project| project.pair.as_ref());
    let machine = case
        .serve
        .machine
        .listening
        .tls
        .iter()
        .map(|tls| &tls.keyfile);
    let mut seen = Vec::new();
    for path in own.map(|pair| &pair.keyfile).chain(machine) {
        if seen.contains(&path) {
            continue;
        }
        seen.push(path);
        let shown = path.display();
        found.push(match fs::metadata(path) {
            Err(error) => problem("key", format!("{shown}: {error}; hint: correct `keyfile`")),
            Ok(about) if about.mode() & 0o004 != 0 => {
                problem("key", format!("{shown} can be read by everybody; hint: chmod 600 {shown}, and ask for a new certificate"))
            }
            Ok(about) if about.mode() & 0o022 != 0 => {
                problem("key", format!("{shown} can be changed by others; hint: chmod 600 {shown}"))
            }
            Ok(_) => ok("key", format!("{shown} is its owner's alone")),
        });
    }
}

/// Files that the server reads itself: API keys and public keys of tokens.
fn key_files(case: &Case, found: &mut Vec<Finding>) {
    let user = server_user(&case.serve.machine);
    let routes = case
        .serve
        .projects
        .iter()
        .flat_map(|project| &project.routes);
    let mut seen: Vec<&Path> = Vec::new();
    for access in routes.map(|route| &route.rules.access) {
        let keys = access
            .keys
            .iter()
            .filter_map(|source| Some((source.file.as_deref()?, true, source.named)));
        let tokens = access
            .tokens
            .iter()
            .filter_map(|source| match &source.keys {
                TokenKeys::File(path) => Some((path.as_path(), false, true)),
                TokenKeys::Url(_) => None,
            });
        for (path, secret, needed) in keys.chain(tokens) {
            if seen.contains(&path) {
                continue;
            }
            seen.push(path);
            found.extend(key_file(path, secret, needed, user.as_ref()));
        }
    }
}

fn key_file(path: &Path, secret: bool, needed: bool, user: Option<&User>) -> Option<Finding> {
    let shown = path.display();
    let about = match fs::metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !needed => return None,
        Err(error) => return Some(problem("keys", format!("{shown}: {error}"))),
    };
    Some(match user {
        Some(user) if !reads(&about, user) => problem(
            "keys",
            format!(
                "{shown} cannot be read by the server's user (uid {}); hint: chgrp its group, chmod 640",
                user.uid
            ),
        ),
        _ if secret && about.mode() & 0o004 != 0 => warning(
            "keys",
            format!("{shown} can be read by everybody; hint: chmod 640 {shown}"),
        ),
        _ => ok("keys", format!("{shown} is there")),
    })
}

fn server_user(machine: &Settings) -> Option<User> {
    let text = match &machine.process.user {
        Some(Account::Id(id)) => id.to_string(),
        Some(Account::Name(name)) => name.clone(),
        None => return users::usual(),
    };
    users::find_user(&text).ok()
}

/// By the bits of the file alone; folders above may still be in the way.
fn reads(about: &Metadata, user: &User) -> bool {
    let bits = match about.uid() == user.uid {
        true => about.mode() >> 6,
        false if about.gid() == user.gid || user.groups.contains(&about.gid()) => about.mode() >> 3,
        false => about.mode(),
    };
    user.uid == 0 || bits & 0o4 != 0
}

fn python(case: &Case, name: &str, settings: &Settings) -> Finding {
    let path = &settings.app.python;
    let shown = path.display();
    let running = case.running.as_ref().ok();
    let said = running.and_then(|status| {
        let project = status
            .projects
            .iter()
            .find(|project| project.name == name)?;
        Some(project.python.clone()).filter(|version| !version.is_empty())
    });
    let version = said.or_else(|| version_of(path));
    let numbers = version.as_deref().and_then(|version| {
        let mut parts = version.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    });
    match (version, numbers) {
        (Some(version), Some(numbers)) if numbers < OLDEST => problem(
            "python",
            format!(
                "{name}: {shown} is Python {version}; hint: 3.9 or later, a venv of it in `python` of [web]"
            ),
        ),
        (Some(version), _) => ok("python", format!("{name}: Python {version}, {shown}")),
        (None, _) => ok(
            "python",
            format!("{name}: {shown}; its version is known once it runs"),
        ),
    }
}

/// The beginning of a file that belongs to an app: neither a FIFO nor its size holds up who asks, who may be root.
fn beginning(path: &Path) -> io::Result<String> {
    const ENOUGH: u64 = 16 * 1024;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => io::read_to_string(file.take(ENOUGH)),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// As its venv or its own name has it.
fn version_of(python: &Path) -> Option<String> {
    let venv = python.parent()?.parent()?.join("pyvenv.cfg");
    let text = beginning(&venv).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    let said = lines.find(|(key, _)| matches!(key.trim(), "version" | "version_info"));
    let said = said.map(|(_, version)| version.trim().to_owned());
    said.or_else(|| {
        let real = fs::canonicalize(python).ok()?;
        let version = real
            .file_name()?
            .to_str()?
            .strip_prefix("python")?
            .to_owned();
        version.contains('.').then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::scratch::Scratch;

    #[test]
    fn what_an_app_put_there_holds_up_nobody() {
        let scratch = Scratch::new("doctor");
        let (fifo, file) = (scratch.path("fifo"), scratch.path("pyvenv.cfg"));
        let mode = rustix::fs::Mode::from_bits_truncate(0o644);
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).expect("a FIFO");
        assert!(beginning(&fifo).is_err() && beginning(Path::new("/dev/zero")).is_err());
        fs::write(&file, "version = 3.9.1\n").expect("written");
        assert_eq!(beginning(&file).ok().as_deref(), Some("version = 3.9.1\n"));
    }

    #[test]
    fn who_reads_a_file_is_told_by_its_bits() {
        let scratch = Scratch::new("doctor-bits");
        let path = scratch.path("keys.csv");
        fs::write(&path, "x").expect("written");
        let about = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
            fs::metadata(&path).expect("there")
        };
        let own = fs::metadata(&path).expect("there");
        let user = |uid, gid| User {
            uid,
            gid,
            groups: Vec::new(),
        };
        let (stranger, group) = (user(54_321, 54_321), user(54_321, own.gid()));
        assert!(!reads(&about(0o640), &stranger) && reads(&about(0o640), &group));
        assert!(!reads(&about(0o600), &group) && reads(&about(0o604), &stranger));
    }
}
