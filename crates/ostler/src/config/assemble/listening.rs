//! What is listened on and how: addresses, TLS, static files, and whose headers are believed. Opens no socket.

use std::path::PathBuf;

use super::{Desk, nonzero};
use crate::config::bind::{self, Bind, FIRST_INHERITED};
use crate::config::error::Warning;
use crate::config::network::{self, Trust};
use crate::config::settings::{
    ClientCertificates, HeaderMap, Listening, ProxyProtocol, StaticFiles, Tls, TlsTexts,
};

/// What is listened on, and who is believed.
impl Desk<'_> {
    pub(super) fn listening(&mut self) -> Listening {
        Listening {
            binds: self.binds(),
            tls_binds: Vec::new(),
            backlog: self.number("backlog"),
            tls: self.tls(),
            static_files: self.static_files(),
            internal_files: self.files_below("internal_files", &[]),
            sendfile_roots: self.sendfile_roots(),
            max_connections_per_address: nonzero(self.number("max_connections_per_address")),
            edge_threads: nonzero(self.number("edge_threads")),
            forwarded_allow_ips: self.trust("forwarded_allow_ips"),
            secure_scheme_headers: self.pairs("secure_scheme_headers").into_iter().collect(),
            forwarder_headers: self.forwarder_headers(),
            proxy_protocol: self.proxy_protocol(),
            proxy_allow_ips: self.trust("proxy_allow_ips"),
            header_map: self.header_map(),
        }
    }

    fn binds(&mut self) -> Vec<Bind> {
        if self.written.inherited > 0 {
            // As gunicorn: sockets handed over by systemd are all there is.
            return (0..self.written.inherited)
                .map(|n| Bind::Fd(FIRST_INHERITED + i32::from(n)))
                .collect();
        }
        self.resolved("bind", &self.texts("bind"))
    }

    /// The addresses `texts` of `name`, their names looked up.
    pub(super) fn resolved(&mut self, name: &str, texts: &[String]) -> Vec<Bind> {
        let mut binds = Vec::new();
        for text in texts {
            let address = bind::parse(text).expect("its form was checked");
            match address.resolve(&self.directory) {
                Ok(bind) => binds.push(bind),
                Err(complaint) => self.complain(name, complaint),
            }
        }
        binds
    }

    fn trust(&self, name: &str) -> Trust {
        let items = self.texts(name);
        if items.iter().any(|item| item == "*") {
            return Trust::Everyone;
        }
        let networks = items
            .iter()
            .map(|item| network::parse(item).expect("checked when the layers were merged"));
        Trust::Networks(networks.collect())
    }

    fn proxy_protocol(&self) -> Option<ProxyProtocol> {
        match self.word("proxy_protocol") {
            "v1" => Some(ProxyProtocol::V1),
            "v2" => Some(ProxyProtocol::V2),
            "auto" => Some(ProxyProtocol::Auto),
            _ => None,
        }
    }

    /// As gunicorn compares them: `Script-Name` and `SCRIPT_NAME` are one.
    fn forwarder_headers(&mut self) -> Vec<String> {
        let texts = self.texts("forwarder_headers");
        let name = |name: &String| name.to_ascii_uppercase().replace('-', "_");
        let names: Vec<String> = texts.iter().map(name).collect();
        // gunicorn's default has PATH_INFO, which does nothing there either.
        let moot = |name: &&String| !["SCRIPT_NAME", "PATH_INFO"].contains(&name.as_str());
        let moot: Vec<&str> = names.iter().filter(moot).map(String::as_str).collect();
        if !moot.is_empty() {
            self.warnings.push(Warning(format!(
                "forwarder_headers: {} will not arrive, as no header with _ in its name does; \
                 let the proxy send it with - instead",
                moot.join(", ")
            )));
        }
        names
    }

    fn header_map(&mut self) -> HeaderMap {
        match self.word("header_map") {
            "dangerous" => {
                self.fail(
                    "header_map",
                    "cannot be dangerous: a header X_Y would pass for the X-Y of a trusted proxy",
                    "use drop, and let clients send the header with - instead of _",
                );
                HeaderMap::Drop
            }
            "refuse" => HeaderMap::Refuse,
            _ => HeaderMap::Drop,
        }
    }

    fn tls(&mut self) -> Option<Tls> {
        let certfile = self.existing_file("certfile");
        let keyfile = self.existing_file("keyfile");
        let authorities = self.existing_file("ca_certs");
        let level = self.count("cert_reqs");
        let Some(certfile) = certfile else {
            for name in ["keyfile", "ca_certs"] {
                if self.text(name).is_some() && self.text("certfile").is_none() {
                    self.fail(
                        name,
                        "is set without a certfile",
                        "add --certfile FILE, or leave it out",
                    );
                }
            }
            return None;
        };
        let clients = match (level, authorities) {
            (1, Some(file)) => ClientCertificates::Optional(file),
            (2, Some(file)) => ClientCertificates::Required(file),
            (0, _) => ClientCertificates::NotAsked,
            (_, None) => {
                if self.text("ca_certs").is_none() {
                    self.fail(
                        "cert_reqs",
                        "asks for client certificates without ca_certs",
                        "add --ca-certs FILE",
                    );
                }
                ClientCertificates::NotAsked
            }
            (3.., Some(_)) => unreachable!("cert_reqs is at most 2"),
        };
        Some(Tls {
            keyfile: keyfile.unwrap_or_else(|| certfile.clone()),
            certfile,
            clients,
            texts: TlsTexts::default(),
        })
    }

    fn existing_file(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        if !path.is_file() {
            self.fail(
                name,
                format!("names no file ({})", path.display()),
                "correct the path, or create the file",
            );
        }
        Some(path)
    }

    pub(super) fn existing_directory(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        if !path.is_dir() {
            self.fail(
                name,
                format!("names no directory ({})", path.display()),
                "correct the path, or create it",
            );
        }
        Some(path)
    }

    fn static_files(&mut self) -> Vec<StaticFiles> {
        let internal = self.pairs("internal_files");
        let taken: Vec<String> = internal.into_iter().map(|(prefix, _)| prefix).collect();
        self.files_below("static_files", &taken)
    }

    fn sendfile_roots(&mut self) -> Vec<PathBuf> {
        let texts = self.texts("sendfile_root");
        let roots: Vec<PathBuf> = texts.iter().map(|text| self.directory.join(text)).collect();
        if let Some(missing) = roots.iter().find(|root| !root.is_dir()) {
            let what = format!("names no directory ({})", missing.display());
            self.fail("sendfile_root", what, "correct the path, or create it");
        }
        roots
    }

    /// The pairs of `name`, which must not use a prefix that is `taken`.
    fn files_below(&mut self, name: &str, taken: &[String]) -> Vec<StaticFiles> {
        let example = match name {
            "static_files" => "write --static /static=./static",
            _ => "write --internal /private=./private",
        };
        let taken: Vec<&str> = taken.iter().map(|prefix| bare(prefix)).collect();
        let mut all: Vec<StaticFiles> = Vec::new();
        for (prefix, directory) in self.pairs(name) {
            let trimmed = bare(&prefix);
            let directory = self.directory.join(&directory);
            if !prefix.starts_with('/') || prefix.contains("//") || prefix.contains(['?', '#', '%'])
            {
                let what = format!("has a prefix that is no path (\"{prefix}\")");
                self.fail(name, what, example);
            } else if taken.contains(&trimmed) || all.iter().any(|other| other.prefix == trimmed) {
                self.fail(
                    name,
                    format!("names \"{trimmed}\" twice"),
                    "keep one of the two",
                );
            } else if !directory.is_dir() {
                let what = format!("names no directory ({})", directory.display());
                self.fail(name, what, "correct the path, or create it");
            } else {
                all.push(StaticFiles {
                    prefix: trimmed.to_owned(),
                    directory,
                });
            }
        }
        all
    }
}

/// A prefix without its last slash, unless it is all of it.
fn bare(prefix: &str) -> &str {
    match prefix.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}
