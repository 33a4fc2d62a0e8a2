//! What the tests run against: a folder, the real pebble with a DNS server of its own, and a server
//! of ours that a CA can come to. Each test has an address of 127.0.0.0/8 for itself, so that fixed
//! ports are always free.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdTcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::serve::Acme;

use super::ACME_TLS;
use super::engine::Engine;
use super::served::Served;
use super::settings::{Settings, Wanted};
use super::state::Pace;

/// The long forms of tests: hours are no matter.
pub fn soak() -> bool {
    std::env::var_os("OSTLER_SOAK").is_some()
}

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

const ACME_PORT: u16 = 14000;
const ADMIN_PORT: u16 = 15000;
const DNS_PORT: u16 = 8053;
const DNS_ADMIN_PORT: u16 = 8055;
pub const HTTP_PORT: u16 = 5002;
pub const TLS_PORT: u16 = 5001;

/// Settings for a CA that nobody asks.
pub fn settings(folder: &Path) -> Settings {
    let acme = Acme {
        directory: "https://ca.test/dir".to_owned(),
        http_port: HTTP_PORT,
        tls_port: TLS_PORT,
        ..Acme::default()
    };
    Settings {
        acme,
        state: folder.join("state"),
    }
}

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let name = format!("ostler-certs-{}-{}", std::process::id(), number());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn number() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An address that no other test has: of this process and a number.
pub fn own_address() -> Ipv4Addr {
    let pid = std::process::id();
    let low = u8::try_from(number() % 250).unwrap() + 2;
    Ipv4Addr::new(
        127,
        u8::try_from(100 + (pid >> 8) % 100).unwrap(),
        u8::try_from(pid % 256).unwrap(),
        low,
    )
}

/// Ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pebble, and a DNS server for which every name is at the test's address.
pub struct Pebble {
    pub address: Ipv4Addr,
    pub folder: Folder,
    root: String,
    more: serde_json::Map<String, serde_json::Value>,
    env: Vec<(String, String)>,
    running: Option<Killed>,
    _dns: Killed,
}

impl Pebble {
    /// `None` on a machine that has no pebble, but never where all must be tested (`CI`).
    pub fn start() -> Option<Self> {
        Self::with(serde_json::json!({}), &[])
    }

    /// With more keys of its configuration and environment.
    pub fn with(more: serde_json::Value, env: &[(&str, &str)]) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let there = std::env::split_paths(&path).any(|folder| folder.join("pebble").is_file());
        if !there && std::env::var_os("CI").is_none() {
            eprintln!(
                "skipped: pebble is not installed; `make test` has it: apt-get install pebble"
            );
            return None;
        }
        let address = own_address();
        let folder = Folder::new();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![address.to_string()]).unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.path().join("ca.pem"), &root).unwrap();
        std::fs::write(folder.path().join("ca.key"), key.serialize_pem()).unwrap();
        let at = |port: u16| SocketAddr::from((address, port)).to_string();
        let dns = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-dns01", &at(DNS_PORT)])
            .args(["-management", &at(DNS_ADMIN_PORT)])
            .args(["-defaultIPv4", &address.to_string()])
            .args(["-defaultIPv6", ""])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble is installed: apt-get install pebble");
        let dns = Killed(dns);
        wait_for_port(address, DNS_ADMIN_PORT);
        let mut pebble = Self {
            address,
            folder,
            root,
            more: more.as_object().unwrap().clone(),
            env: env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            running: None,
            _dns: dns,
        };
        pebble.up();
        Some(pebble)
    }

    /// Starts it, with no memory of before.
    pub fn up(&mut self) {
        let at = |port: u16| SocketAddr::from((self.address, port)).to_string();
        let path = |name: &str| self.folder.path().join(name);
        let mut config = serde_json::json!({
            "listenAddress": at(ACME_PORT),
            "managementListenAddress": at(ADMIN_PORT),
            "certificate": path("ca.pem"),
            "privateKey": path("ca.key"),
            "httpPort": HTTP_PORT,
            "tlsPort": TLS_PORT,
        });
        config.as_object_mut().unwrap().extend(self.more.clone());
        let config = serde_json::json!({ "pebble": config }).to_string();
        std::fs::write(path("pebble.json"), config).unwrap();
        let mut child = Command::new("pebble")
            .arg("-config")
            .arg(path("pebble.json"))
            .args(["-strict", "-dnsserver", &at(DNS_PORT)])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "5")
            .envs(self.env.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble is installed: apt-get install pebble");
        let output = child.stdout.take().unwrap();
        let log = path("pebble.log");
        // Read to its end, so that pebble never waits for us.
        std::thread::spawn(move || {
            let text: Vec<String> = BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .collect();
            let _ = std::fs::write(log, text.join("\n"));
        });
        self.running = Some(Killed(child));
        wait_for_port(self.address, ACME_PORT);
        wait_for_port(self.address, ADMIN_PORT);
    }

    pub fn down(&mut self) {
        self.running = None;
    }

    pub fn settings(&self) -> Settings {
        let mut settings = settings(self.folder.path());
        settings.acme.directory = format!("https://{}:{ACME_PORT}/dir", self.address);
        settings.acme.ca_root_text = Some(self.root.clone());
        settings.acme.resolver = Some((self.address, DNS_PORT).into());
        settings
    }

    /// What its certificates lead to.
    pub async fn issuing_root(&self) -> String {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap())
            .unwrap();
        let address = self.address.to_string();
        let mut stream = connect_tls(
            (self.address, ADMIN_PORT).into(),
            &address,
            client(roots, &[]),
        )
        .await
        .unwrap();
        let request =
            format!("GET /roots/0 HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // pebble closes without a TLS goodbye.
        let _ = stream.read_to_string(&mut answer).await;
        answer[answer.find("-----BEGIN").unwrap()..].to_owned()
    }

    pub fn certs(&self, wanted: Vec<Wanted>) -> Arc<Engine> {
        self.certs_with(self.settings(), wanted)
    }

    pub fn certs_with(&self, settings: Settings, wanted: Vec<Wanted>) -> Arc<Engine> {
        let engine = Engine::open_at(HASTY, settings, Arc::default()).unwrap();
        engine.wanted(wanted);
        Arc::new(engine)
    }
}

/// As the calm one, in a test's time.
pub const HASTY: Pace = Pace {
    ca: Duration::from_millis(100),
    operator: Duration::from_millis(100),
    refused: [
        Duration::from_millis(100),
        Duration::from_millis(200),
        Duration::from_millis(400),
    ],
    look: Duration::from_millis(50),
};

fn wait_for_port(address: Ipv4Addr, port: u16) {
    let started = std::time::Instant::now();
    while StdTcpStream::connect((address, port)).is_err() {
        assert!(
            started.elapsed() < PATIENCE,
            "{address}:{port} never opened"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Listens, once nobody else does: a process that another test is just starting holds what we have
/// closed until its `exec`.
pub async fn listen(address: Ipv4Addr, port: u16) -> TcpListener {
    let started = std::time::Instant::now();
    loop {
        match TcpListener::bind((address, port)).await {
            Ok(listener) => return listener,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{address}:{port}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server as the edge will be: tokens on the HTTP port, certificates on the TLS port.
pub struct Edge {
    tasks: Vec<JoinHandle<()>>,
}

impl Edge {
    pub async fn start(address: Ipv4Addr, certs: &Arc<Engine>) -> Self {
        let http = listen(address, HTTP_PORT).await;
        let tls = listen(address, TLS_PORT).await;
        let resolver = Arc::clone(&certs.shared.served);
        let tokens = Arc::clone(&resolver);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec(), ACME_TLS.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let tasks = vec![
            tokio::spawn(async move {
                loop {
                    let (stream, _) = http.accept().await.unwrap();
                    tokio::spawn(answer_token(stream, Arc::clone(&tokens)));
                }
            }),
            tokio::spawn(async move {
                loop {
                    let (stream, _) = tls.accept().await.unwrap();
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        if let Ok(mut stream) = acceptor.accept(stream).await {
                            let _ = stream.shutdown().await;
                        }
                    });
                }
            }),
        ];
        Self { tasks }
    }
}

impl Edge {
    /// Closes its ports.
    pub async fn end(self) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }
}

async fn answer_token(mut stream: TcpStream, certs: Arc<Served>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let token = path.strip_prefix("/.well-known/acme-challenge/");
    let (status, body) = match token.and_then(|token| certs.token(token)) {
        Some(text) => ("200 OK", text),
        None => ("404 Not Found", "the app".to_owned()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// Runs `certs` until dropped.
pub struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start(certs: &Arc<Engine>) -> Self {
        let (stop, stopping) = watch::channel(false);
        let certs = Arc::clone(certs);
        let task = tokio::spawn(async move { certs.run(stopping).await });
        Self { stop, task }
    }

    pub async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

/// A way to the CA that can be closed: every connection through it ends, and no new one begins.
pub struct Gate {
    open: watch::Sender<bool>,
    _task: JoinHandle<()>,
}

impl Gate {
    /// The settings are led through it.
    pub async fn start(pebble: &Pebble, settings: &mut Settings) -> Self {
        const PORT: u16 = 14001;
        let (address, (open, opened)) = (pebble.address, watch::channel(true));
        let listener = TcpListener::bind((address, PORT)).await.unwrap();
        settings.acme.directory = format!("https://{address}:{PORT}/dir");
        let task = tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut opened = opened.clone();
                tokio::spawn(async move {
                    let joined = async {
                        let mut far = TcpStream::connect((address, ACME_PORT)).await?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    };
                    tokio::select! {
                        _ = opened.wait_for(|open| !open) => {}
                        _ = joined => {}
                    }
                });
            }
        });
        Self { open, _task: task }
    }

    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

/// A program for DNS-01 that tells the test's DNS server, and writes down its arguments.
pub fn dns_hook(pebble: &Pebble) -> PathBuf {
    let folder = pebble.folder.path().display();
    let at = SocketAddr::from((pebble.address, DNS_ADMIN_PORT));
    script(
        pebble,
        "hook",
        &format!(
            r#"echo "$*" >> {folder}/hook.log
case $1 in present) path=set-txt;; cleanup) path=clear-txt;; *) exit 9;; esac
exec curl -sS --fail -d "{{\"host\":\"$2.\",\"value\":\"$3\"}}" http://{at}/$path"#
        ),
    )
}

pub fn script(pebble: &Pebble, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = pebble.folder.path().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A TLS client that trusts `roots`.
pub fn client(roots: RootCertStore, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// One that trusts what `pem` leads to.
pub fn client_of(pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    client(roots, &[])
}

pub async fn connect_tls(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, tcp).await
}

/// Waits until `is` says so, looking every few milliseconds.
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let started = std::time::Instant::now();
    while !is().await {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
