//! Takes over what certbot has: its certificates, so that nothing is asked of a CA that is there
//! already. Reads certbot's folder and changes nothing in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::certificate::Certificate;
use super::disk::Disk;
use super::keys;
use super::names::Names;
use super::settings::Settings;
use crate::config::serve::Challenge;

/// What became of each lineage, in the order of their names.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    pub lineages: Vec<(String, Outcome)>,
}

/// What became of one lineage (a certificate with its renewals, in certbot's words).
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its certificate is in our folder, and is renewed in its time.
    Adopted {
        names: Names,
        days: i64,
        /// How certbot has proved the names, as far as we can do the same.
        challenge: Option<Challenge>,
        notes: Vec<String>,
    },
    /// Left as it is.
    Left(String),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (lineage, outcome) in &self.lineages {
            match outcome {
                Outcome::Left(why) => writeln!(f, "{lineage}: left: {why}")?,
                Outcome::Adopted {
                    names, days, notes, ..
                } => {
                    writeln!(f, "{lineage}: adopted: {names} ({days} days left)")?;
                    for note in notes {
                        writeln!(f, "  {note}")?;
                    }
                }
            }
        }
        if self.lineages.is_empty() {
            writeln!(f, "there are no certificates in it")?;
        }
        writeln!(
            f,
            "Stop certbot's timer once all is well: systemctl disable --now certbot.timer"
        )
    }
}

/// Adopts every certificate below `folder` (`/etc/letsencrypt`) that is valid and usable, for each of its names. One
/// of ours that is valid for longer stays. Blocks on the disk.
///
/// # Errors
/// `folder` is none of certbot's, or our own cannot be written.
pub fn certbot(folder: &Path, settings: &Settings) -> io::Result<Report> {
    let disk = Disk::open(&settings.state, &settings.acme.directory)?;
    let live = folder.join("live");
    let entries = fs::read_dir(&live).map_err(|error| {
        let text = format!("{} is no folder of certbot: {error}", folder.display());
        io::Error::new(error.kind(), text)
    })?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    let mut lineages = Vec::new();
    for path in folders {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let conf = folder.join("renewal").join(format!("{name}.conf"));
        let outcome = adopt(&path, &Renewal::read(&conf), &disk, settings)?;
        lineages.push((name.into_owned(), outcome));
    }
    Ok(Report { lineages })
}

fn adopt(live: &Path, renewal: &Renewal, disk: &Disk, settings: &Settings) -> io::Result<Outcome> {
    let read = |name: &str| read_text(&live.join(name));
    let (chain, key) = match (read("fullchain.pem"), read("privkey.pem")) {
        (Ok(chain), Ok(key)) => (chain, key),
        (Err(error), _) | (_, Err(error)) => return Ok(Outcome::Left(error.to_string())),
    };
    let found = keys::from_pem(&key, &chain).and_then(|key| Certificate::read(&key.cert[0]));
    let (certificate, names) = match found.and_then(|certificate| {
        let names = certificate.all_names().map_err(|error| error.to_string())?;
        Ok((certificate, names))
    }) {
        Ok(found) => found,
        Err(error) => return Ok(Outcome::Left(error)),
    };
    let now = SystemTime::now();
    let days = certificate.held().days(now);
    if days < 0 {
        return Ok(Outcome::Left(format!("expired {} days ago", -days)));
    }
    // Each host has a certificate of its own here: this one serves all of its names until they are renewed.
    let single: Vec<Names> = names
        .iter()
        .filter_map(|name| Names::new([name]).ok())
        .collect();
    let newer = |name: &Names| -> io::Result<bool> {
        let ours = disk.certificate(name)?;
        let ours = ours.and_then(|ours| keys::from_pem(&ours, &ours).ok());
        let ours = ours.and_then(|ours| Certificate::read(&ours.cert[0]).ok());
        Ok(ours.is_none_or(|ours| ours.not_after < certificate.not_after))
    };
    let mut wanted = Vec::new();
    for name in single {
        if newer(&name)? {
            wanted.push(name);
        }
    }
    if wanted.is_empty() {
        let text = "ours for the same names are valid for as long";
        return Ok(Outcome::Left(text.to_owned()));
    }
    let pem = format!("{}\n{chain}", key.trim_end());
    for name in &wanted {
        disk.save_certificate(name, &pem)?;
    }
    let challenge = renewal.challenge();
    Ok(Outcome::Adopted {
        notes: renewal.notes(names.wild(), challenge, settings),
        names,
        days,
        challenge,
    })
}

/// What `renewal/NAME.conf` says of a lineage: the keys of its section `renewalparams`.
#[derive(Default)]
struct Renewal(BTreeMap<String, String>);

impl Renewal {
    /// A lineage without one can still be served.
    fn read(path: &Path) -> Self {
        let text = read_text(path).unwrap_or_default();
        let lines = text
            .lines()
            .skip_while(|line| line.trim() != "[renewalparams]")
            .skip(1)
            .take_while(|line| !line.trim_start().starts_with('[') || line.contains("[["));
        let pairs = lines.filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            Some((key.trim().to_owned(), value.trim().to_owned()))
        });
        Self(pairs.collect())
    }

    fn key(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn challenge(&self) -> Option<Challenge> {
        let authenticator = self.key("authenticator");
        match authenticator {
            "webroot" | "standalone" | "nginx" | "apache" => Some(Challenge::Http01),
            "manual" if self.key("pref_challs").contains("dns") => Some(Challenge::Dns01),
            "manual" => Some(Challenge::Http01),
            _ if authenticator.starts_with("dns-") => Some(Challenge::Dns01),
            _ => None,
        }
    }

    fn notes(&self, wild: bool, challenge: Option<Challenge>, settings: &Settings) -> Vec<String> {
        let mut notes = Vec::new();
        let server = self.key("server");
        if !server.is_empty() && server != settings.acme.directory {
            notes.push(format!(
                "it is from {server}; the next one is asked of {}",
                settings.acme.directory
            ));
        }
        let dns = challenge == Some(Challenge::Dns01) || wild;
        if dns && settings.acme.hook.is_none() {
            notes.push(format!(
                "it was proved through DNS ({}): its renewal needs a program that sets TXT records",
                self.key("authenticator")
            ));
        }
        for hook in ["pre_hook", "post_hook", "renew_hook"] {
            if !self.key(hook).is_empty() {
                notes.push(format!("its {hook} is not run: {}", self.key(hook)));
            }
        }
        notes.push("its account stays with certbot; ours is made with the first order".to_owned());
        notes
    }
}

/// No certificate with its chain, and no key, is larger.
const MOST_BYTES: u64 = 1 << 20;

/// A text file of a sane size.
fn read_text(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)
        .map_err(|error| about(path, &error))?
        .len();
    if length > MOST_BYTES {
        let error = io::Error::new(io::ErrorKind::InvalidData, "the file is too large");
        return Err(about(path, &error));
    }
    fs::read_to_string(path).map_err(|error| about(path, &error))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("cannot read {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rcgen::{CertificateParams, KeyPair};

    use super::super::testing::{Folder, settings};
    use super::*;

    /// A lineage as certbot lays it out: links in `live` to numbered files in `archive`.
    fn lineage(folder: &Path, name: &str, names: &[&str], days: i64, renewal: &str) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(30);
        params.not_after = now + time::Duration::days(days) + time::Duration::hours(1);
        let chain = params.self_signed(&key).unwrap().pem();
        let (live, archive) = (
            folder.join("live").join(name),
            folder.join("archive").join(name),
        );
        for folder in [&live, &archive, &folder.join("renewal")] {
            fs::create_dir_all(folder).unwrap();
        }
        for (file, text) in [("fullchain", chain), ("privkey", key.serialize_pem())] {
            let to = archive.join(format!("{file}2.pem"));
            fs::write(&to, text).unwrap();
            symlink(&to, live.join(format!("{file}.pem"))).unwrap();
        }
        let conf = format!(
            "# renew_before_expiry = 30 days\nversion = 2.1.0\n\n[renewalparams]\naccount = 0123\n{renewal}\n\
             [[webroot_map]]\na.example = /var/www\n"
        );
        fs::write(folder.join("renewal").join(format!("{name}.conf")), conf).unwrap();
    }

    #[test]
    fn what_certbot_has_is_adopted_once() {
        let folder = Folder::new();
        let certbot_folder = folder.path().join("letsencrypt");
        let settings = settings(folder.path());
        let web = format!(
            "authenticator = webroot\nserver = {}",
            settings.acme.directory
        );
        let dns = "authenticator = dns-cloudflare\nserver = https://other.ca/dir\nrenew_hook = reload nginx";
        lineage(
            &certbot_folder,
            "a.example",
            &["a.example", "www.a.example"],
            60,
            &web,
        );
        lineage(&certbot_folder, "gone.example", &["gone.example"], -2, &web);
        lineage(
            &certbot_folder,
            "wild.example",
            &["*.wild.example"],
            10,
            dns,
        );
        fs::write(certbot_folder.join("live/README"), "certbot's own").unwrap();
        let half = certbot_folder.join("live/half.example");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("fullchain.pem"), "nothing").unwrap();

        let report = certbot(&certbot_folder, &settings).unwrap();
        let text = report.to_string();
        for part in [
            "a.example: adopted: a.example, www.a.example (60 days left)",
            "gone.example: left: expired 2 days ago",
            "half.example: left: cannot read",
            "wild.example: adopted: *.wild.example (10 days left)",
            "it is from https://other.ca/dir; the next one is asked of https://ca.test/dir",
            "proved through DNS (dns-cloudflare)",
            "its renew_hook is not run: reload nginx",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let challenges: Vec<_> = report
            .lineages
            .iter()
            .map(|(_, outcome)| match outcome {
                Outcome::Adopted { challenge, .. } => *challenge,
                Outcome::Left(_) => None,
            })
            .collect();
        let expected = [Some(Challenge::Http01), None, None, Some(Challenge::Dns01)];
        assert_eq!(challenges, expected);
        // What is adopted is served, and is not adopted again.
        let disk = Disk::open(&settings.state, &settings.acme.directory).unwrap();
        for name in ["a.example", "www.a.example"] {
            let name: Names = name.parse().unwrap();
            assert!(disk.certificate(&name).unwrap().is_some());
        }
        let again = certbot(&certbot_folder, &settings).unwrap().to_string();
        assert!(!again.contains("adopted:"), "{again}");
    }

    #[test]
    fn another_folder_is_refused() {
        let folder = Folder::new();
        let error = certbot(folder.path(), &settings(folder.path())).unwrap_err();
        assert!(
            error.to_string().contains("no folder of certbot"),
            "{error}"
        );
    }
}
