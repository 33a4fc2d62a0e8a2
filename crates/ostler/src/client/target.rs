//! Where a request goes: an `http` or `https` URL, taken apart. Asks nobody.

use std::net::IpAddr;

use hyper::Uri;

/// One URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub https: bool,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: u16,
    /// As the `Host` field has it.
    pub authority: String,
    /// Path and query; begins with `/`.
    pub path: String,
}

impl Target {
    /// # Errors
    /// It is no such URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let no = || format!("{text} is no http or https URL");
        let uri: Uri = text.parse().map_err(|_| no())?;
        Self::of(&uri).ok_or_else(no)
    }

    /// `None` for what is no `http` or `https` URL, or names a user.
    pub fn of(uri: &Uri) -> Option<Self> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host();
        // Neither a user before the host nor behind it what is no port.
        let port = authority.port_u16();
        if host.is_empty()
            || (port.is_none() && authority.as_str() != host)
            || authority.as_str().contains('@')
        {
            return None;
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Some(Self {
            https,
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: port.unwrap_or(if https { 443 } else { 80 }),
            authority: authority.to_string(),
            path: match path.starts_with('/') {
                true => path.to_owned(),
                false => format!("/{path}"),
            },
        })
    }

    /// What is sent there stays on this machine, so that nobody can read or change it without TLS.
    pub fn is_loopback(&self) -> bool {
        let address: Result<IpAddr, _> = self.host.parse();
        self.host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }

    /// Where an answer of this one sends us on, on the same server.
    ///
    /// # Errors
    /// It leads elsewhere, for the operator.
    pub fn redirected(&self, location: &str) -> Result<Self, String> {
        let next = match location.starts_with('/') && !location.starts_with("//") {
            true => Self {
                path: location.to_owned(),
                ..self.clone()
            },
            false => Self::parse(location).map_err(|_| format!("it redirects to `{location}`"))?,
        };
        match (next.https, &next.host, next.port) == (self.https, &self.host, self.port) {
            true => Ok(next),
            false => Err(format!(
                "it redirects to another server, {}; hint: name that one",
                next.authority
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parsed = |text: &str| {
            let target = Target::parse(text).expect(text);
            (target.https, target.host, target.port, target.path)
        };
        let same =
            |https, host: &str, port, path: &str| (https, host.to_owned(), port, path.to_owned());
        assert_eq!(parsed("https://a.test"), same(true, "a.test", 443, "/"));
        assert_eq!(
            parsed("http://[::1]:8080/x?y"),
            same(false, "::1", 8080, "/x?y")
        );
        assert_eq!(parsed("https://a.test?y"), same(true, "a.test", 443, "/?y"));
        for text in [
            "",
            "/x",
            "ftp://a.test",
            "https://",
            "https://u:p@a.test/",
            "https://a.test:x/",
            "a.test:443",
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
        for (text, here) in [
            ("http://127.9.8.7/", true),
            ("http://[::1]/", true),
            ("http://LOCALHOST/", true),
            ("http://10.0.0.1/", false),
            ("http://localhost.evil.test/", false),
            ("http://127.0.0.1.evil.test/", false),
        ] {
            assert_eq!(
                Target::parse(text).expect(text).is_loopback(),
                here,
                "{text}"
            );
        }
    }

    #[test]
    fn redirects_stay_on_their_server() {
        let from = Target::parse("https://a.test/x").expect("a URL");
        let path = |location| from.redirected(location).map(|next| next.path);
        assert_eq!(path("/y?z").as_deref(), Ok("/y?z"));
        assert_eq!(path("https://a.test:443/y").as_deref(), Ok("/y"));
        for elsewhere in [
            "http://a.test/y",
            "https://b.test/y",
            "//b.test/y",
            "https://a.test:444/",
            "y",
            "javascript:x",
        ] {
            assert!(path(elsewhere).is_err(), "{elsewhere}");
        }
    }
}
