//! Hosts and prefixes, as a route has them. Looks no name up.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::config::error::Complaint;

/// Which requests are meant, by the host they name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Host {
    /// This name or address: in lower case, without a port or a dot at its end; IPv6 in brackets.
    Name(String),
    /// A name with exactly one label more: `*.example.com` is `example.com` here.
    Below(String),
    /// Any that nobody else has.
    Any,
}

/// Longest name, in bytes (RFC 1035 section 2.3.4, without the length of the root).
const LONGEST_NAME: usize = 253;

/// Longest label, in bytes (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Below(name) => write!(f, "*.{name}"),
            Host::Any => f.write_str("*"),
        }
    }
}

impl Host {
    /// Reads `example.com`, `*.example.com`, an address or `*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Host, Complaint> {
        let lower = text.trim().to_ascii_lowercase();
        if lower == "*" {
            return Ok(Host::Any);
        }
        if let Some(address) = lower
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            let address: Result<Ipv6Addr, _> = address.parse();
            return address
                .map(|address| Host::Name(format!("[{address}]")))
                .map_err(|_| {
                    Complaint::new(
                        "has no IPv6 address in its brackets",
                        "write it as [2001:db8::1]",
                    )
                });
        }
        let lower = lower.strip_suffix('.').unwrap_or(&lower);
        match lower.strip_prefix("*.") {
            Some(rest) => name(rest).map(Host::Below),
            None => name(lower).map(Host::Name),
        }
    }

    /// The name that a certificate of a CA has for it; `None` where no CA gives one.
    pub fn certificate_name(&self) -> Option<String> {
        let name = match self {
            Host::Name(name) | Host::Below(name) => name,
            Host::Any => return None,
        };
        is_public(name).then(|| self.to_string())
    }

    /// Whether requests for `other` are among those for this host.
    pub fn covers(&self, other: &Host) -> bool {
        match (self, other) {
            (Host::Any, _) => true,
            (Host::Below(above), Host::Name(name)) => {
                name.split_once('.').is_some_and(|(_, rest)| rest == above)
            }
            _ => self == other,
        }
    }
}

/// Whether a CA may certify `name`, which is in lower case: two labels at least, of letters, digits and `-`
/// (RFC 1123 section 2.1), and no address.
pub fn is_public(name: &str) -> bool {
    let label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or("");
    name.len() <= LONGEST_NAME
        && name.contains('.')
        && name.split('.').all(label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

fn name(text: &str) -> Result<String, Complaint> {
    let wrong = |what: &str, hint: &str| Err(Complaint::new(what, hint));
    if text.contains('/') {
        return wrong(
            "is no host but a URL or a path",
            "write the name alone, as in example.com",
        );
    }
    if text.contains(':') {
        return wrong(
            "has a port",
            "leave the port out: every address of listen has every host",
        );
    }
    if text.contains('*') {
        return wrong(
            "has a * that is not its whole first label",
            "write *.example.com for every name with one label more, * for any host",
        );
    }
    if !text.is_ascii() {
        return wrong(
            "has letters that are not ASCII",
            "write the name as the network has it: xn--…",
        );
    }
    let label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > LONGEST_NAME || !text.split('.').all(label) {
        return wrong(
            "is no host name",
            "write a name as in example.com: letters, digits and -",
        );
    }
    Ok(text.to_owned())
}

/// Reads the prefix of paths: `/`, or one that starts with `/` and does not end with one.
///
/// # Errors
/// What is wrong with it.
pub fn prefix(text: &str) -> Result<String, Complaint> {
    let wrong = |what: &str, hint: String| Err(Complaint::new(what, hint));
    if !text.starts_with('/') {
        return wrong("does not begin with /", format!("write /{text}"));
    }
    if text != "/" && text.ends_with('/') {
        let bare = match text.trim_end_matches('/') {
            "" => "/",
            bare => bare,
        };
        return wrong(
            "ends with /",
            format!("write {bare}, which has everything below it too"),
        );
    }
    if text.contains("//") {
        return wrong(
            "has an empty segment",
            "write one / between two names".to_owned(),
        );
    }
    if text
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return wrong(
            "has a . or .. in it",
            "write the path as requests have it".to_owned(),
        );
    }
    if text.contains(['?', '#', '%'])
        || text.contains(|c: char| c.is_control() || c.is_whitespace())
    {
        return wrong(
            "has a character that no path has",
            "write a path as in /api, without ? # % and blanks".to_owned(),
        );
    }
    Ok(text.to_owned())
}
