//! Who sent a request, as far as the peers that pass it on can be believed (threats E-09).
//!
//! An app may rely on the address, scheme and host it gets: what strangers write about themselves in
//! `X-Forwarded-*` and its like never arrives; what trusted proxies write is read right to left. Some
//! proxies add a line of their own behind the client's (HAProxy's `option forwardfor`): lines of one
//! name are one list in their order, as RFC 9110 section 5.3 has it.

use std::borrow::Cow;
use std::net::IpAddr;

use super::connection::Peer;
use super::h1::bytes::{push_decimal, trim};
use super::h1::head::Head;
use super::h1::left_out::Names;
use super::h1::names;
use super::reason::Reason;
use crate::config::Trust;

/// Bytes of a proxy's name for a request: those in use have 16 to 64.
const LONGEST_ID: usize = 128;

/// Which proxies stand before us.
#[derive(Debug, Clone)]
pub enum TrustedProxies {
    /// Those with these addresses.
    At(Trust),
    /// So many, whatever their addresses: nobody reaches us but through all of them.
    Hops(u32),
}

/// Whom to believe, and what a trusted proxy says when the client spoke TLS to it.
#[derive(Debug, Clone)]
pub struct Forwarding {
    proxies: TrustedProxies,
    /// Lower-case header name and the value that means https.
    secure: Vec<(Vec<u8>, Vec<u8>)>,
    /// `SCRIPT_NAME` of a trusted proxy counts.
    pub script_name: bool,
}

/// The client behind a request.
#[derive(Debug)]
pub struct Sender {
    ip: Option<IpAddr>,
    /// The same as text.
    address: Vec<u8>,
    port: u16,
    /// The textual address of the proxy that passed the request on; empty for none.
    peer: Vec<u8>,
    https: Option<bool>,
    trusted: bool,
}

impl Forwarding {
    pub fn new(
        proxies: TrustedProxies,
        secure: impl IntoIterator<Item = (String, String)>,
        script_name: bool,
    ) -> Self {
        let lower = |name: String| name.to_ascii_lowercase().replace('_', "-").into_bytes();
        Self {
            proxies,
            secure: secure
                .into_iter()
                .map(|(name, value)| (lower(name), value.into_bytes()))
                .collect(),
            script_name,
        }
    }

    /// Whether a peer's word counts.
    pub fn trusts(&self, address: Option<IpAddr>) -> bool {
        match &self.proxies {
            TrustedProxies::At(trust) => trust.includes(address),
            TrustedProxies::Hops(count) => *count > 0,
        }
    }

    /// Finds the client that `peer` speaks for.
    ///
    /// # Errors
    /// A trusted proxy that contradicts itself about the scheme.
    pub fn resolve(&self, peer: &Peer, head: &Head) -> Result<Sender, Reason> {
        let own = |trusted| Sender {
            ip: peer.address.map(|address| address.to_canonical()),
            address: peer.address.map_or_else(Vec::new, text),
            port: peer.port,
            peer: Vec::new(),
            https: None,
            trusted,
        };
        if !self.trusts(peer.address) {
            return Ok(own(false));
        }
        let mut sender = own(true);
        if let Some(address) = self.client(head.fields_named(b"x-forwarded-for")) {
            sender.ip = Some(address);
            sender.peer = std::mem::replace(&mut sender.address, text(address));
            sender.port = 0;
        }
        for (name, secure) in &self.secure {
            for value in head.fields_named(name) {
                let says = value.eq_ignore_ascii_case(secure);
                if sender.https.is_some_and(|before| before != says) {
                    return Err(Reason::SchemeConflict);
                }
                sender.https = Some(says);
            }
        }
        Ok(sender)
    }

    /// The last address in the chain that is no trusted proxy; the first one when all are. Each proxy has
    /// added who came to it: of three hops, the third from the end is the client. The chain may be spread
    /// over several fields.
    fn client<'h>(&self, chain: impl DoubleEndedIterator<Item = &'h [u8]>) -> Option<IpAddr> {
        let mut client = None;
        let addresses = chain.flat_map(|part| part.split(|&byte| byte == b','));
        for (place, text) in (1..).zip(addresses.rev()) {
            let text = std::str::from_utf8(trim(text)).ok()?;
            let text = text
                .strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'))
                .unwrap_or(text);
            // What a trusted proxy passed on unread ends what can be believed.
            let Ok(address) = text.parse::<IpAddr>() else {
                return client;
            };
            client = Some(address.to_canonical());
            let is_proxy = match &self.proxies {
                TrustedProxies::At(trust) => trust.includes(client),
                TrustedProxies::Hops(count) => place < *count,
            };
            if !is_proxy {
                return client;
            }
        }
        client
    }
}

impl Sender {
    /// Textual; empty behind a UNIX socket.
    pub fn address(&self) -> &[u8] {
        &self.address
    }

    /// The same as a number; `None` behind a UNIX socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// 0 when a proxy stands between.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path prefix that a trusted proxy says the app is mounted under.
    pub fn script_name<'h>(&self, head: &'h Head, allowed: bool) -> Option<&'h [u8]> {
        head.script_name().filter(|_| self.trusted && allowed)
    }

    /// What a trusted proxy calls the request: one word that fits in a line of a log.
    pub fn request_id<'h>(&self, head: &'h Head) -> Option<&'h [u8]> {
        if !self.trusted {
            return None;
        }
        let mut said = head.fields_named(b"x-request-id");
        let id = said.next().filter(|_| said.next().is_none())?;
        let is_word = (1..=LONGEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
        is_word.then_some(id)
    }

    /// The client spoke TLS, to us or to a trusted proxy.
    pub fn https(&self, tls: bool) -> bool {
        self.https.unwrap_or(tls)
    }

    /// The name and port by which the client reached us. The name is never empty (PEP 3333): a client
    /// of HTTP/1.0 that names no host gets the address that it connected to.
    pub fn server<'h>(&self, head: &'h Head, peer: &Peer, https: bool) -> (Cow<'h, [u8]>, u16) {
        let default = if https { 443 } else { 80 };
        if !head.host().is_empty() {
            return (head.host().into(), head.port().unwrap_or(default));
        }
        let name = match peer.local.map(|local| local.ip()) {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            None => "localhost".to_owned(),
        };
        let port = peer.local.map_or(default, |local| local.port());
        (name.into_bytes().into(), port)
    }

    /// Writes the fields that the app gets: the client's own without what strangers may not say, and
    /// ours about who is asking. `join` puts duplicates together, for an environ that has one
    /// variable for each name. Fields of the client named in `drops` are left out.
    pub fn fields(
        &self,
        head: &Head,
        https: bool,
        join: bool,
        drops: &Names,
        mut write: impl FnMut(u8, &[u8], &[u8]),
    ) {
        let said = || {
            let fields = head.fields();
            fields.filter(|(id, name, _)| !says_who(*id, name) && !drops.has(name))
        };
        if join && has_duplicates(said()) {
            for (id, name, value) in joined(said()) {
                write(id, name, &value);
            }
        } else {
            for (id, name, value) in said() {
                write(id, name, value);
            }
        }
        if head.is_websocket() {
            write(names::CONNECTION, b"connection", b"Upgrade");
            write(names::UPGRADE, b"upgrade", b"websocket");
        }
        self.tell(head, https, write);
    }

    /// Who is asking, in our hand: what a trusted proxy said goes on, with that proxy behind it.
    fn tell(&self, head: &Head, https: bool, mut write: impl FnMut(u8, &[u8], &[u8])) {
        let said = |name| self.trusted.then(|| list(head, name)).flatten();
        let address = &self.address[..];
        let chain = match said(b"x-forwarded-for") {
            Some(chain) if !self.peer.is_empty() => {
                Cow::Owned([&chain, &b", "[..], &self.peer].concat())
            }
            Some(chain) => chain,
            None => Cow::Borrowed(address),
        };
        write(names::X_FORWARDED_FOR, b"x-forwarded-for", &chain);
        let scheme: &[u8] = if https { b"https" } else { b"http" };
        write(names::X_FORWARDED_PROTO, b"x-forwarded-proto", scheme);
        // Who reads this list from the right, as far as there are proxies, gets what they wrote.
        if let Some(host) = said(b"x-forwarded-host").or(head.authority().map(Cow::Borrowed)) {
            write(names::X_FORWARDED_HOST, b"x-forwarded-host", &host);
        }
        write(names::X_REAL_IP, b"x-real-ip", address);
    }
}

/// An address as text, for every request: the standard formatting costs half as much as parsing a
/// small head.
pub fn text(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => {
            let mut text = Vec::with_capacity("255.255.255.255".len());
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    text.push(b'.');
                }
                push_decimal(&mut text, octet.into());
            }
            text
        }
        IpAddr::V6(address) => address.to_string().into_bytes(),
    }
}

/// The values of all fields with this lower-case name as one list (RFC 9110 section 5.3).
fn list<'h>(head: &'h Head, name: &[u8]) -> Option<Cow<'h, [u8]>> {
    let mut parts = head.fields_named(name);
    let mut list = Cow::Borrowed(parts.next()?);
    for part in parts {
        let list = list.to_mut();
        list.extend_from_slice(b", ");
        list.extend_from_slice(part);
    }
    Some(list)
}

/// Fields by which somebody says who the client is or which request this is, or speaks in our name.
pub(super) fn says_who(id: u8, name: &[u8]) -> bool {
    matches!(
        id,
        names::FORWARDED | names::X_REAL_IP | names::X_SCHEME | names::X_REQUEST_ID
    ) || name.starts_with(b"x-forwarded-")
        || name.starts_with(b"x-ostler-")
        || name == b"x-client-ip"
}

/// Known names are told by a bit each; the few unknown ones are compared.
fn has_duplicates<'h>(fields: impl Iterator<Item = (u8, &'h [u8], &'h [u8])> + Clone) -> bool {
    let mut known = 0u64;
    for (index, (id, name, _)) in fields.clone().enumerate() {
        if id == 0 {
            if fields
                .clone()
                .take(index)
                .any(|(_, earlier, _)| earlier == name)
            {
                return true;
            }
        } else if known & (1 << id) != 0 {
            return true;
        } else {
            known |= 1 << id;
        }
    }
    false
}

/// Values of one name in one field, in order (RFC 9110 section 5.3); cookies by `; ` (RFC 6265
/// section 5.4).
fn joined<'h>(
    fields: impl Iterator<Item = (u8, &'h [u8], &'h [u8])>,
) -> Vec<(u8, &'h [u8], Vec<u8>)> {
    let mut all: Vec<(u8, &[u8], Vec<u8>)> = Vec::new();
    for (id, name, value) in fields {
        match all.iter_mut().find(|(_, earlier, _)| *earlier == name) {
            None => all.push((id, name, value.to_vec())),
            Some((_, _, before)) => {
                before.extend_from_slice(if id == names::COOKIE { b"; " } else { b", " });
                before.extend_from_slice(value);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::h1::head::{Limits, parse};
    use super::*;
    use crate::config::Network;
    use ostler_wire::{RequestEncoder, RequestHead, frame};

    fn head(fields: &str) -> Head {
        let input = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut head = Head::default();
        parse(input.as_bytes(), &Limits::default(), &mut head).expect("a good head");
        head
    }

    fn peer(address: &str) -> Peer {
        let local = ([127, 0, 0, 1], 80).into();
        Peer::tcp(address.parse().expect("an address"), 5, local)
    }

    fn resolved(address: &str, trust: Trust, head: &Head) -> Result<Sender, Reason> {
        let peer = peer(address);
        let secure = [("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on")];
        let secure = secure.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Forwarding::new(TrustedProxies::At(trust), secure, false).resolve(&peer, head)
    }

    fn sent(peer: &str, trust: Trust, fields: &str) -> (String, bool, Vec<(String, String)>) {
        let head = head(fields);
        let sender = resolved(peer, trust, &head).expect("no conflict");
        let mut wire = Vec::new();
        let mut encoder = RequestEncoder::new(&mut wire, 0, &RequestHead::EMPTY);
        let drops = Names::default();
        sender.fields(
            &head,
            sender.https(false),
            true,
            &drops,
            |id, name, value| {
                encoder.field_with_id(id, name, value);
            },
        );
        encoder.finish(b"");
        let (_, payload, _) = frame(&wire).expect("frame").expect("whole");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let head = RequestHead::decode(payload).expect("head");
        let fields = head
            .fields()
            .map(|field| (text(field.name), text(field.value)))
            .collect();
        (text(sender.address()), sender.https(false), fields)
    }

    fn only(address: &str) -> Trust {
        Trust::Networks(vec![Network {
            address: address.parse().expect("an address"),
            prefix: 32,
        }])
    }

    const LIES: &str = "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Ostler-User: root\r\nX-Client-IP: 9.9.9.9\r\nX-Request-Id: 9\r\n";

    #[test]
    fn what_strangers_say_about_themselves_never_arrives() {
        let (address, https, fields) = sent("1.2.3.4", only("127.0.0.1"), LIES);
        assert_eq!((address.as_str(), https), ("1.2.3.4", false));
        let value = |name: &str| {
            fields
                .iter()
                .filter(|field| field.0 == name)
                .map(|field| field.1.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(value("x-forwarded-for"), ["1.2.3.4"]);
        assert_eq!(value("x-real-ip"), ["1.2.3.4"]);
        assert_eq!(value("x-forwarded-proto"), ["http"]);
        assert_eq!(
            (
                value("forwarded").len(),
                value("x-ostler-user").len(),
                value("x-client-ip").len(),
                value("x-request-id").len()
            ),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn a_trusted_chain_is_read_from_the_right() {
        let chain = "X-Forwarded-For: 9.9.9.9, 8.8.8.8, 127.0.0.1\r\nX-Forwarded-Proto: https\r\n";
        let (address, https, fields) = sent("127.0.0.1", only("127.0.0.1"), chain);
        assert_eq!((address.as_str(), https), ("8.8.8.8", true));
        assert!(fields.contains(&("x-forwarded-proto".to_owned(), "https".to_owned())));
        assert!(fields.contains(&("x-real-ip".to_owned(), "8.8.8.8".to_owned())));
        let (address, _, _) = sent("5.5.5.5", Trust::Everyone, chain);
        assert_eq!(address, "9.9.9.9");
    }

    #[test]
    fn lines_of_one_name_are_one_list() {
        let lines = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-A: b\r\nX-Forwarded-For: 9.9.9.9, 127.0.0.1\r\nX-Forwarded-Host: shop\r\n";
        let (address, _, fields) = sent("127.0.0.1", only("127.0.0.1"), lines);
        assert_eq!(address, "9.9.9.9");
        let told = |name: &str| fields.iter().filter(|field| field.0 == name).count();
        for (name, value) in [
            ("x-forwarded-for", "6.6.6.6, 9.9.9.9, 127.0.0.1, 127.0.0.1"),
            ("x-real-ip", "9.9.9.9"),
            ("x-forwarded-host", "evil, shop"),
        ] {
            assert!(fields.contains(&(name.to_owned(), value.to_owned())));
            assert_eq!(told(name), 1, "{name}");
        }
        let (address, _, _) = sent("5.5.5.5", Trust::Everyone, lines);
        assert_eq!(address, "6.6.6.6", "the first one when all are trusted");
    }

    #[test]
    fn a_trusted_proxy_names_the_request_by_one_word() {
        let long = "x".repeat(LONGEST_ID + 1);
        for (said, expected) in [
            (&["a-1"][..], Some("a-1")),
            (&[], None),
            (&[""], None),
            (&["a 1"], None),
            (&["\u{e4}"], None),
            (&["a", "b"], None),
            (&[&long[1..]], Some(&long[1..])),
            (&[&long], None),
        ] {
            let line = |id: &&str| format!("X-Request-Id: {id}\r\n");
            let head = head(&said.iter().map(line).collect::<String>());
            let named = |peer: &str| {
                let sender = resolved(peer, only("127.0.0.1"), &head).expect("no conflict");
                let id = sender.request_id(&head);
                id.map(|id| String::from_utf8_lossy(id).into_owned())
            };
            assert_eq!(named("127.0.0.1").as_deref(), expected, "{said:?}");
            assert_eq!(named("1.2.3.4"), None, "{said:?}");
        }
    }

    #[test]
    fn so_many_hops_are_counted_from_the_end() {
        let chain = "X-Forwarded-For: 6.6.6.6, 9.9.9.9, 8.8.8.8\r\n";
        for (hops, client) in [
            (0, "5.5.5.5"),
            (1, "8.8.8.8"),
            (2, "9.9.9.9"),
            (3, "6.6.6.6"),
            (4, "6.6.6.6"),
        ] {
            let forwarding = Forwarding::new(TrustedProxies::Hops(hops), [], false);
            let peer = peer("5.5.5.5");
            let head = head(chain);
            let sender = forwarding.resolve(&peer, &head).expect("no contradiction");
            assert_eq!(sender.address(), client.as_bytes(), "{hops} hops");
        }
    }

    #[test]
    fn every_line_about_the_scheme_must_say_the_same() {
        for (fields, expected) in [
            ("", Ok(false)),
            (
                "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on\r\n",
                Ok(true),
            ),
            (
                "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: HTTPS\r\n",
                Ok(true),
            ),
            (
                "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: http\r\n",
                Ok(false),
            ),
            (
                "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
                Err(Reason::SchemeConflict),
            ),
            (
                "X-Forwarded-Ssl: off\r\nX-Forwarded-Ssl: on\r\n",
                Err(Reason::SchemeConflict),
            ),
            (
                "X-Forwarded-Ssl: on\r\nX-Forwarded-Proto: http\r\n",
                Err(Reason::SchemeConflict),
            ),
        ] {
            let sender = resolved("127.0.0.1", only("127.0.0.1"), &head(fields));
            let https = sender.map(|sender| sender.https(false));
            assert_eq!(https, expected, "{fields:?}");
            let stranger = resolved("1.2.3.4", only("127.0.0.1"), &head(fields));
            assert!(!stranger.expect("not looked at").https(false));
        }
    }

    #[test]
    fn the_server_has_a_name_whatever_the_client_says() {
        let client = IpAddr::from([1, 2, 3, 4]);
        let four = Peer::tcp(client, 5, ([10, 0, 0, 1], 8000).into());
        let six = Peer::tcp(client, 5, "[::1]:443".parse().expect("an address"));
        for (input, peer, expected) in [
            ("GET / HTTP/1.1\r\nHost: A.b:81\r\n\r\n", &four, ("a.b", 81)),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &four, ("a", 80)),
            ("GET http://a/ HTTP/1.0\r\n\r\n", &four, ("a", 80)),
            ("GET / HTTP/1.0\r\n\r\n", &four, ("10.0.0.1", 8000)),
            ("GET / HTTP/1.0\r\n\r\n", &six, ("[::1]", 443)),
            ("GET / HTTP/1.0\r\n\r\n", &Peer::unix(), ("localhost", 80)),
        ] {
            let mut head = Head::default();
            parse(input.as_bytes(), &Limits::default(), &mut head).expect("a good head");
            let forwarding = Forwarding::new(TrustedProxies::At(only("127.0.0.1")), [], false);
            let sender = forwarding.resolve(peer, &head).expect("no conflict");
            let (name, port) = sender.server(&head, peer, false);
            assert_eq!(
                (&name[..], port),
                (expected.0.as_bytes(), expected.1),
                "{input}"
            );
        }
    }

    #[test]
    fn duplicates_are_joined_cookies_their_own_way() {
        let (_, _, fields) = sent(
            "1.2.3.4",
            only("127.0.0.1"),
            "Cookie: a=1\r\nX-A: 1\r\nCookie: b=2\r\nX-A: 2\r\n",
        );
        assert!(fields.contains(&("cookie".to_owned(), "a=1; b=2".to_owned())));
        assert!(fields.contains(&("x-a".to_owned(), "1, 2".to_owned())));
    }
}
