//! The look before an order: would the CA find us? It costs nothing at the CA, where a refusal
//! counts. Only what is certainly wrong stops an order: from behind a router one may not reach one's
//! own public address, and the CA may.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::dns;
use super::http;
use super::keys;
use super::names::Names;
use super::served::ACME_TLS;
use super::shared::Shared;
use super::state::{Trouble, Whose};
use crate::config::serve::{Acme, Challenge};

/// For one address. CAs wait for about as long.
const PROBE: Duration = Duration::from_secs(10);

/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;

/// What came of coming to one address as the CA would.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Us,
    /// Somebody answers, and it is not us.
    Other(String),
    /// Nobody answers.
    Nobody(String),
    /// The CA may be led to us.
    Unclear(String),
}

/// Looks for each name. The first that cannot go well is the error; what is unclear is told.
pub async fn check(
    shared: &Shared,
    names: &Names,
    challenge: Challenge,
) -> Result<Vec<String>, Trouble> {
    let mut unclear = Vec::new();
    if challenge == Challenge::Dns01 {
        return match &shared.settings.acme.hook {
            Some(_) => Ok(unclear),
            None => Err(operator(format!(
                "{names}: dns-01 needs a program that sets TXT records; hint: name one"
            ))),
        };
    }
    for name in names.iter() {
        check_name(shared, name, challenge, &mut unclear).await?;
    }
    Ok(unclear)
}

async fn check_name(
    shared: &Shared,
    name: &str,
    challenge: Challenge,
    unclear: &mut Vec<String>,
) -> Result<(), Trouble> {
    let addresses = resolved(shared.settings.acme.resolver, name, unclear).await?;
    for address in addresses {
        let found = match challenge {
            Challenge::TlsAlpn01 => probe_tls(shared, name, address).await,
            Challenge::Http01 | Challenge::Dns01 => probe_http(shared, name, address).await,
        };
        unclear.extend(judge(name, address, &place(address), found)?);
    }
    Ok(())
}

/// Looks at one name while no server of ours runs.
pub async fn check_without_us(
    acme: &Acme,
    name: &str,
    challenge: Challenge,
) -> Result<Vec<String>, Trouble> {
    let mut unclear = Vec::new();
    if challenge == Challenge::Dns01 {
        return Ok(unclear);
    }
    for address in resolved(acme.resolver, name, &mut unclear).await? {
        let found = match challenge {
            Challenge::TlsAlpn01 => match timeout(
                PROBE,
                peer_certificate((address, acme.tls_port).into(), name),
            )
            .await
            {
                Err(_) => Found::Nobody("no answer in time".to_owned()),
                Ok(Err(Shake::Connect(error))) => Found::Nobody(error),
                Ok(Err(Shake::Tls(error))) => Found::Other(error),
                Ok(Ok(_)) => Found::Other("it has a certificate of its own".to_owned()),
            },
            Challenge::Http01 | Challenge::Dns01 => {
                let at = (address, acme.http_port).into();
                answered(at, name, "ostler-doctor", None).await
            }
        };
        let place = place(address);
        // Where nobody listens we can be.
        let free = matches!((&found, &place), (Found::Nobody(_), Place::Here));
        if !free {
            unclear.extend(judge(name, address, &place, found)?);
        }
    }
    Ok(unclear)
}

/// The addresses of a name that are looked at; none when DNS is in trouble, which is told.
async fn resolved(
    resolver: Option<SocketAddr>,
    name: &str,
    unclear: &mut Vec<String>,
) -> Result<Vec<IpAddr>, Trouble> {
    match dns::addresses(resolver, name).await {
        Ok(addresses) => Ok(addresses.into_iter().take(MOST_ADDRESSES).collect()),
        Err(error @ dns::DnsError::Nothing) => Err(operator(format!(
            "{name}: {error}; hint: give it an A or AAAA record with this machine's address"
        ))),
        // The CA has resolvers of its own.
        Err(error @ dns::DnsError::Broken(_)) => {
            unclear.push(format!("{name}: not looked at before the order: {error}"));
            Ok(Vec::new())
        }
    }
}

/// Where an address is, seen from here.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// This machine has it.
    Here,
    /// Elsewhere, and our own address on the way there is this.
    There(Option<IpAddr>),
}

fn place(address: IpAddr) -> Place {
    // Only an address of this machine can be bound to.
    if UdpSocket::bind((address, 0)).is_ok() {
        return Place::Here;
    }
    let any: SocketAddr = match address {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let own = UdpSocket::bind(any).and_then(|socket| {
        // Sends nothing: the kernel only chooses a route.
        socket.connect((address, 80))?;
        socket.local_addr()
    });
    Place::There(own.ok().map(|own| own.ip()))
}

/// What is only unclear is told, and stops nothing.
fn judge(
    name: &str,
    address: IpAddr,
    place: &Place,
    found: Found,
) -> Result<Option<String>, Trouble> {
    match (found, place) {
        (Found::Us, _) => Ok(None),
        (Found::Unclear(seen), _) => Ok(Some(format!(
            "{name}: at {address} {seen}; the order goes on, the CA may find us"
        ))),
        (Found::Other(seen), Place::Here) => Err(operator(format!(
            "{name}: another server of this machine answers at {address}: {seen}; hint: stop it or give ostler its port"
        ))),
        (Found::Other(seen), Place::There(_)) => Err(operator(format!(
            "{name}: another server answers at {address}: {seen}; hint: let the A and AAAA records of {name} name this machine, \
             or let the proxy in front pass /.well-known/acme-challenge/ on"
        ))),
        (Found::Nobody(seen), Place::Here) => Err(operator(format!(
            "{name}: nobody answers at {address}, which is this machine: {seen}; hint: let ostler listen there, and open the firewall"
        ))),
        (Found::Nobody(seen), Place::There(Some(own))) if !private(*own) => Err(operator(format!(
            "{name}: nobody answers at {address}: {seen}; this machine has {own}; hint: let the A and AAAA records of {name} name this machine"
        ))),
        (Found::Nobody(seen), Place::There(_)) => Ok(Some(format!(
            "{name}: {address} cannot be reached from here ({seen}); the order goes on, the CA may find us"
        ))),
    }
}

/// Comes to the port of HTTP-01 for a token that only we can know.
async fn probe_http(shared: &Shared, name: &str, address: IpAddr) -> Found {
    let (Some(token), Some(text)) = (random(), random()) else {
        return Found::Unclear("there are no random numbers".to_owned());
    };
    shared.served.set_token(&token, Some(text.clone()));
    let at = (address, shared.settings.acme.http_port).into();
    let found = answered(at, name, &token, Some(&text)).await;
    shared.served.set_token(&token, None);
    found
}

/// Who answers there; we are who knows the `text` of a token.
async fn answered(at: SocketAddr, name: &str, token: &str, text: Option<&str>) -> Found {
    let path = format!("/.well-known/acme-challenge/{token}");
    let asked = timeout(PROBE, http::get(at, name, &path, 4096)).await;
    let ours = |body: &[u8]| text.is_some_and(|text| body.trim_ascii() == text.as_bytes());
    match asked {
        Err(_) => Found::Nobody("no answer in time".to_owned()),
        Ok(Err(error)) => Found::Nobody(error.to_string()),
        Ok(Ok(answer)) if ours(answer.body()) => Found::Us,
        Ok(Ok(answer)) => {
            let server = answer.headers().get(hyper::header::SERVER);
            let server = server.and_then(|name| name.to_str().ok()).unwrap_or("-");
            let seen = format!("status {}, server {server}", answer.status());
            // CAs follow redirects (RFC 8555 section 8.3).
            match answer.status().is_redirection() {
                true => Found::Unclear(seen),
                false => Found::Other(seen),
            }
        }
    }
}

/// Comes to the port of TLS-ALPN-01 for a certificate that only we can have.
async fn probe_tls(shared: &Shared, name: &str, address: IpAddr) -> Found {
    let Ok(key) = keys::challenge(name, &[0; 32]).map(Arc::new) else {
        return Found::Unclear("no certificate can be made".to_owned());
    };
    shared.served.answer(name, &key);
    let at = (address, shared.settings.acme.tls_port).into();
    let asked = timeout(PROBE, peer_certificate(at, name)).await;
    shared.served.answer_no_more(name);
    match asked {
        Err(_) => Found::Nobody("no answer in time".to_owned()),
        Ok(Err(Shake::Connect(error))) => Found::Nobody(error),
        Ok(Err(Shake::Tls(error))) => Found::Other(error),
        Ok(Ok(certificate)) if certificate == key.cert[0] => Found::Us,
        Ok(Ok(_)) => Found::Other("it has a certificate of its own".to_owned()),
    }
}

/// Why there is no certificate.
enum Shake {
    Connect(String),
    Tls(String),
}

async fn peer_certificate(
    address: SocketAddr,
    name: &str,
) -> Result<CertificateDer<'static>, Shake> {
    let tls = |error: &dyn ToString| Shake::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    let connected = TcpStream::connect(address).await;
    let tcp = connected.map_err(|error| Shake::Connect(error.to_string()))?;
    let server = ServerName::try_from(name.to_owned()).map_err(|error| tls(&error))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(server, tcp).await;
    let stream = stream.map_err(|error| tls(&error))?;
    let chain = stream.get_ref().1.peer_certificates();
    let leaf = chain.and_then(|chain| chain.first());
    leaf.map(|leaf| leaf.clone().into_owned())
        .ok_or_else(|| Shake::Tls("no certificate".to_owned()))
}

/// Takes any certificate: it is only compared with ours.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // webpki would not read it for its critical extension, and nobody else can know it.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// 128 bits as text, as a CA's token would be.
fn random() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An address that the CA cannot come to: RFC 1918, 6598, 4193, link-local and loopback.
fn private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => {
            let [a, b, ..] = four.octets();
            four.is_private()
                || four.is_loopback()
                || four.is_link_local()
                || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(six) => {
            six.is_loopback() || six.is_unique_local() || six.is_unicast_link_local()
        }
    }
}

fn operator(text: String) -> Trouble {
    Trouble::new(Whose::Operator, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_decides_and_names_the_reason() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let says = |found: Found, place: Place| {
            let judged = judge("a.example", address, &place, found);
            judged.err().map(|trouble| trouble.text)
        };
        let private = || Place::There(Some([10, 0, 0, 7].into()));
        let public = || Place::There(Some([198, 51, 100, 7].into()));
        let other = || Found::Other("status 404 Not Found, server nginx".to_owned());
        let nobody = || Found::Nobody("connection refused".to_owned());
        assert_eq!(says(Found::Us, public()), None);
        assert_eq!(says(Found::Unclear(String::new()), public()), None);
        // Behind a router one may not see oneself.
        assert_eq!(says(nobody(), private()), None);
        assert_eq!(says(nobody(), Place::There(None)), None);
        let stops = |found, place, word: &str| {
            let text = says(found, place).unwrap();
            assert!(text.contains(word) && text.contains("hint:"), "{text}");
        };
        stops(nobody(), public(), "this machine has 198.51.100.7");
        stops(nobody(), Place::Here, "which is this machine");
        stops(other(), Place::Here, "another server of this machine");
        stops(other(), private(), "server nginx");
    }

    #[test]
    fn our_own_addresses_are_known() {
        assert_eq!(place([127, 3, 2, 1].into()), Place::Here);
        assert!(matches!(place([192, 0, 2, 1].into()), Place::There(_)));
    }

    #[test]
    fn private_addresses_are_known() {
        for text in [
            "10.1.2.3",
            "100.64.0.1",
            "192.168.0.1",
            "169.254.1.1",
            "fd00::1",
            "fe80::1",
        ] {
            assert!(private(text.parse().unwrap()), "{text}");
        }
        for text in ["8.8.8.8", "100.128.0.1", "2001:db8::1"] {
            assert!(!private(text.parse().unwrap()), "{text}");
        }
    }
}
