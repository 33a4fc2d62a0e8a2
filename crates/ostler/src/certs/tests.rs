//! Certificates from the real pebble, handed out by a real TLS server.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::engine::Engine;
use super::errand::Errand;
use super::names::Names;
use super::settings::Wanted;
use super::state::Event;
use super::stub::Stub;
use super::testing::{
    Edge, Folder, Gate, HASTY, HTTP_PORT, Pebble, Running, TLS_PORT, client_of, connect_tls,
    dns_hook, listen, script, settings, soak, until,
};
use crate::config::serve::{Challenge, Eab, KeyKind};

fn wanted(names: &[&str]) -> Wanted {
    Wanted::acme(names, Challenge::Http01).unwrap()
}

fn by(names: &[&str], challenge: Challenge) -> Wanted {
    Wanted::acme(names, challenge).unwrap()
}

/// What is handed out for `name`, if a client trusts it.
async fn leaf(
    address: Ipv4Addr,
    name: &str,
    client: &Arc<ClientConfig>,
) -> Option<CertificateDer<'static>> {
    let at = (address, TLS_PORT).into();
    let stream = connect_tls(at, name, Arc::clone(client)).await.ok()?;
    let chain = stream.get_ref().1.peer_certificates()?;
    Some(chain[0].clone().into_owned())
}

async fn all_valid(certs: &Engine) -> bool {
    let all = certs.status();
    !all.is_empty() && all.iter().all(|status| status.state == "valid")
}

/// The error of the one certificate, once there is one.
async fn error(certs: &Engine) -> String {
    let find = || certs.status().first()?.last_error.clone();
    until("an error", async || find().is_some()).await;
    find().unwrap()
}

#[tokio::test]
async fn a_name_gets_its_certificate_and_serves_it() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let certs = pebble.certs(vec![wanted(&["shop.example"])]);
    let edge = Edge::start(pebble.address, &certs).await;
    let client = client_of(&pebble.issuing_root().await);
    let before = leaf(pebble.address, "shop.example", &client).await;
    assert!(before.is_none(), "nobody trusts what is served before");
    let running = Running::start(&certs);
    until("a trusted handshake", async || {
        leaf(pebble.address, "shop.example", &client)
            .await
            .is_some()
    })
    .await;
    assert!(
        leaf(pebble.address, "other.example", &client)
            .await
            .is_none()
    );
    until("all is written", async || all_valid(&certs).await).await;
    assert_eq!(certs.status()[0].last_error, None);
    running.end().await;
    // Another server finds it on disk.
    let again = pebble.certs(vec![wanted(&["shop.example"])]);
    edge.end().await;
    let _edge = Edge::start(pebble.address, &again).await;
    assert!(
        leaf(pebble.address, "shop.example", &client)
            .await
            .is_some()
    );
}

#[tokio::test]
async fn many_names_are_had_while_half_of_all_nonces_are_refused() {
    let Some(pebble) = Pebble::with(json!({}), &[("PEBBLE_WFE_NONCEREJECT", "50")]) else {
        return;
    };
    let names: Vec<String> = (0..if soak() { 100 } else { 20 })
        .map(|number| format!("n{number}.example"))
        .collect();
    let list = names.iter().map(|name| wanted(&[name])).collect();
    let certs = pebble.certs(list);
    let _edge = Edge::start(pebble.address, &certs).await;
    let client = client_of(&pebble.issuing_root().await);
    let _running = Running::start(&certs);
    until("all certificates", async || all_valid(&certs).await).await;
    for name in &names {
        assert!(
            leaf(pebble.address, name, &client).await.is_some(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn several_names_share_a_certificate() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let mut settings = pebble.settings();
    settings.acme.key = KeyKind::P384;
    settings.acme.email = Some("someone@mail.test".to_owned());
    let names = ["a.example", "b.example", "c.example"];
    let certs = pebble.certs_with(settings, vec![wanted(&names)]);
    let _edge = Edge::start(pebble.address, &certs).await;
    let client = client_of(&pebble.issuing_root().await);
    let _running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    let mut leaves = HashSet::new();
    for name in names {
        leaves.insert(leaf(pebble.address, name, &client).await.unwrap());
    }
    assert_eq!(leaves.len(), 1);
}

#[tokio::test]
async fn a_ca_that_is_away_is_waited_for() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let mut settings = pebble.settings();
    let gate = Gate::start(&pebble, &mut settings).await;
    let certs = pebble.certs_with(settings, vec![wanted(&["a.example"])]);
    let _edge = Edge::start(pebble.address, &certs).await;
    let names: Names = "a.example".parse().unwrap();
    let shared = Arc::clone(&certs.shared);
    let mut errand = Errand::open(shared, names.clone(), Challenge::Http01);
    errand.feed(Event::Tick);
    let disk = &certs.shared.disk;
    let order = || disk.record(&names).unwrap().and_then(|record| record.order);
    while order().is_none() {
        assert!(errand.act().await);
    }
    gate.set_open(false);
    while errand.act().await {}
    let text = error(&certs).await;
    assert!(text.contains("the CA: "), "{text}");
    assert!(order().is_some(), "the order is kept");
    gate.set_open(true);
    let running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    running.end().await;
}

#[tokio::test]
async fn a_ca_that_has_forgotten_us_gets_a_new_account() {
    let Some(mut pebble) = Pebble::start() else {
        return;
    };
    let certs = pebble.certs(vec![wanted(&["a.example"])]);
    let _edge = Edge::start(pebble.address, &certs).await;
    let running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    pebble.down();
    pebble.up();
    certs.wanted(vec![wanted(&["b.example"])]);
    until("the other certificate", async || {
        certs
            .status()
            .iter()
            .all(|status| status.names == ["b.example"])
            && all_valid(&certs).await
    })
    .await;
    running.end().await;
}

/// Drops everything after `cut` actions of an attempt, then starts over from what is on disk.
async fn cut_off_after(pebble: &Pebble, cut: usize) -> bool {
    let names: Names = format!("cut{cut}.example").parse().unwrap();
    let list = vec![wanted(&[names.first()])];
    let certs = pebble.certs(list.clone());
    let edge = Edge::start(pebble.address, &certs).await;
    let shared = Arc::clone(&certs.shared);
    let mut errand = Errand::open(shared, names.clone(), Challenge::Http01);
    errand.feed(Event::Tick);
    let mut whole = false;
    for _ in 0..cut {
        whole = !errand.act().await;
    }
    drop(errand);
    edge.end().await;
    drop(certs);
    let certs = pebble.certs(list);
    let edge = Edge::start(pebble.address, &certs).await;
    let running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    assert_eq!(certs.status()[0].last_error, None, "cut after {cut}");
    running.end().await;
    edge.end().await;
    whole
}

#[tokio::test]
async fn a_crash_between_any_two_steps_of_an_order_loses_nothing() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let mut cut = 0;
    while !cut_off_after(&pebble, cut).await {
        cut += 1;
    }
    assert!(cut > 15, "{cut}");
}

#[tokio::test]
async fn a_name_is_proved_in_a_tls_handshake() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let list = vec![by(&["a.example", "b.example"], Challenge::TlsAlpn01)];
    let certs = pebble.certs(list);
    let _edge = Edge::start(pebble.address, &certs).await;
    let client = client_of(&pebble.issuing_root().await);
    let _running = Running::start(&certs);
    until("a certificate", async || {
        leaf(pebble.address, "b.example", &client).await.is_some()
    })
    .await;
    let hello = client_of(&pebble.issuing_root().await);
    let mut acme = ClientConfig::clone(&hello);
    acme.alpn_protocols = vec![super::ACME_TLS.to_vec()];
    until("the answers are gone", async || all_valid(&certs).await).await;
    let answer = leaf(pebble.address, "a.example", &Arc::new(acme)).await;
    assert!(answer.is_none(), "nothing is answered but to a challenge");
}

#[tokio::test]
async fn a_wildcard_is_proved_through_dns() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let mut settings = pebble.settings();
    settings.acme.hook = Some(dns_hook(&pebble));
    let list = vec![by(&["wild.example", "*.wild.example"], Challenge::Dns01)];
    let certs = pebble.certs_with(settings, list);
    let _edge = Edge::start(pebble.address, &certs).await;
    let client = client_of(&pebble.issuing_root().await);
    let _running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    for name in ["wild.example", "any.wild.example"] {
        assert!(
            leaf(pebble.address, name, &client).await.is_some(),
            "{name}"
        );
    }
    let log = std::fs::read_to_string(pebble.folder.path().join("hook.log")).unwrap();
    let calls = |what: &str| {
        let call = format!("{what} _acme-challenge.wild.example ");
        log.lines().filter(|line| line.starts_with(&call)).count()
    };
    assert_eq!(calls("present"), calls("cleanup"), "{log}");
    assert!(calls("present") >= 2, "{log}");
}

#[tokio::test]
async fn a_dns_program_that_fails_is_quoted() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let mut settings = pebble.settings();
    settings.acme.hook = Some(script(&pebble, "hook", "echo no such zone: $2 >&2; exit 4"));
    let list = vec![by(&["a.example"], Challenge::Dns01)];
    let certs = pebble.certs_with(settings, list);
    let _running = Running::start(&certs);
    let text = error(&certs).await;
    assert!(text.contains("exit status: 4"), "{text}");
    assert!(
        text.contains("no such zone: _acme-challenge.a.example"),
        "{text}"
    );
}

#[tokio::test]
async fn refusals_stop_before_the_cas_limit() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let mut settings = pebble.settings();
    // It says that all is well and does nothing, so the CA finds no record.
    settings.acme.hook = Some(script(&pebble, "hook", "echo $1 >> ${0}.log"));
    let list = vec![by(&["a.example"], Challenge::Dns01)];
    let certs = pebble.certs_with(settings, list.clone());
    let running = Running::start(&certs);
    let wait = |certs: &Engine| {
        let next = certs.status().first()?.next_attempt?;
        let wait = next.duration_since(SystemTime::now()).ok()?;
        Some(wait.as_secs())
    };
    until("the next attempt to be tomorrow", async || {
        wait(&certs) > Some(80_000)
    })
    .await;
    let text = error(&certs).await;
    assert!(
        text.contains("a.example") && text.contains("unauthorized"),
        "{text}"
    );
    let calls = |what: &str| {
        let log = std::fs::read_to_string(pebble.folder.path().join("hook.log")).unwrap();
        log.lines().filter(|line| *line == what).count()
    };
    until("the last record to be taken away", async || {
        calls("cleanup") == 4
    })
    .await;
    assert_eq!(calls("present"), 4);
    running.end().await;
    // That survives a restart, and counts for other certificates with the name.
    let list = vec![
        by(&["a.example"], Challenge::Dns01),
        by(&["a.example", "b.example"], Challenge::Dns01),
    ];
    let mut settings = pebble.settings();
    settings.acme.hook = Some(pebble.folder.path().join("hook"));
    let again = pebble.certs_with(settings, list);
    let running = Running::start(&again);
    let both = || again.status().get(1)?.last_error.clone();
    until("both to fail", async || both().is_some()).await;
    assert!(
        both()
            .unwrap()
            .contains("refusals of a.example: 4 in an hour")
    );
    assert!(wait(&again) > Some(80_000));
    running.end().await;
}

#[tokio::test]
async fn an_account_elsewhere_is_bound() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let keys = json!({
        "externalAccountBindingRequired": true,
        "externalAccountMACKeys": { "kid-1": key },
    });
    let Some(pebble) = Pebble::with(keys, &[]) else {
        return;
    };
    let certs = pebble.certs(vec![wanted(&["a.example"])]);
    let edge = Edge::start(pebble.address, &certs).await;
    let running = Running::start(&certs);
    let text = error(&certs).await;
    assert!(text.contains("externalAccountRequired"), "{text}");
    running.end().await;
    edge.end().await;
    let mut settings = pebble.settings();
    settings.acme.eab = Some(Eab {
        id: "kid-1".to_owned(),
        key: key.to_owned(),
    });
    let certs = pebble.certs_with(settings, vec![wanted(&["a.example"])]);
    let _edge = Edge::start(pebble.address, &certs).await;
    let running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    running.end().await;
}

#[tokio::test]
async fn what_would_fail_is_seen_before_the_ca_is_asked() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let certs = pebble.certs(vec![wanted(&["a.example"])]);
    let running = Running::start(&certs);
    let text = error(&certs).await;
    assert!(
        text.contains("nobody answers at") && text.contains("hint:"),
        "{text}"
    );
    // Somebody else has our port.
    let other = listen(pebble.address, HTTP_PORT).await;
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = other.accept().await.unwrap();
            let answer = b"HTTP/1.1 404 Not Found\r\nserver: nginx\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    });
    until("the other server to be named", async || {
        error(&certs).await.contains("server nginx")
    })
    .await;
    answering.abort();
    let _ = answering.await;
    let asked = std::fs::read_dir(pebble.settings().state).unwrap();
    let asked = asked.flatten().any(|ca| {
        ca.path().join("account.json").exists() || ca.path().join("budget.json").exists()
    });
    assert!(!asked, "the CA was not asked, and nothing was counted");
    // Once we answer it goes on by itself.
    let _edge = Edge::start(pebble.address, &certs).await;
    until("a certificate", async || all_valid(&certs).await).await;
    running.end().await;
}

#[tokio::test]
async fn short_certificates_are_renewed_without_a_failed_handshake() {
    let (life, renewals) = if soak() { (30, 90) } else { (24, 2) };
    let Some(pebble) = Pebble::with(json!({ "certificateValidityPeriod": life }), &[]) else {
        return;
    };
    let certs = pebble.certs(vec![wanted(&["a.example"])]);
    let _edge = Edge::start(pebble.address, &certs).await;
    let client = client_of(&pebble.issuing_root().await);
    let running = Running::start(&certs);
    until("the first certificate", async || all_valid(&certs).await).await;
    let mut leaves = HashSet::new();
    for renewal in 1..=renewals {
        until("a renewal", async || {
            let found = leaf(pebble.address, "a.example", &client).await;
            leaves.insert(found.expect("no handshake fails"));
            leaves.len() > renewal
        })
        .await;
    }
    running.end().await;
}

#[tokio::test]
async fn what_there_is_is_served_until_other_names_are_had() {
    let Some(pebble) = Pebble::start() else {
        return;
    };
    let certs = pebble.certs(vec![wanted(&["a.example"])]);
    let edge = Edge::start(pebble.address, &certs).await;
    let client = client_of(&pebble.issuing_root().await);
    let running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    let first = leaf(pebble.address, "a.example", &client).await.unwrap();
    running.end().await;
    // Nobody keeps certificates now: what is served is what is on disk.
    certs.wanted(vec![wanted(&["a.example", "b.example"])]);
    let still = leaf(pebble.address, "a.example", &client).await;
    assert_eq!(still, Some(first.clone()));
    assert!(leaf(pebble.address, "b.example", &client).await.is_none());
    let running = Running::start(&certs);
    until("a certificate for both", async || {
        leaf(pebble.address, "b.example", &client).await.is_some()
    })
    .await;
    let both = leaf(pebble.address, "a.example", &client).await;
    assert_ne!(both, Some(first));
    running.end().await;
    edge.end().await;
}

/// Certificates from the stub: DNS-01 with a program that does nothing, since it asks for no proof.
async fn from_stub(
    stub: &Stub,
    folder: &Folder,
    change: impl FnOnce(&mut super::Settings),
) -> Arc<Engine> {
    let mut settings = settings(folder.path());
    settings.acme.directory = stub.directory.clone();
    settings.acme.ca_root_text = Some(stub.root.clone());
    settings.acme.hook = Some("true".into());
    change(&mut settings);
    let list = vec![by(&["a.example"], Challenge::Dns01)];
    let engine = Engine::open_at(HASTY, settings, Arc::default()).unwrap();
    engine.wanted(list);
    Arc::new(engine)
}

#[tokio::test]
async fn the_cas_window_brings_a_renewal_that_names_what_it_replaces() {
    let (stub, folder) = (Stub::start().await, Folder::new());
    // Its certificates live for 90 days, and it would like them renewed an hour ago.
    *stub.book.window.lock().unwrap() = (-7200, -3600);
    let certs = from_stub(&stub, &folder, |_| {}).await;
    let running = Running::start(&certs);
    let orders = || stub.book.orders.lock().unwrap().clone();
    // A CA that always says so does not get more orders than it allows.
    let text = error(&certs).await;
    assert!(
        text.contains("certificates for exactly a.example"),
        "{text}"
    );
    running.end().await;
    assert_eq!(orders().len(), 4);
    assert!(orders()[0]["replaces"].is_null());
    let replaced = orders()[1]["replaces"].as_str().unwrap().to_owned();
    assert_eq!(replaced.split('.').count(), 2, "{replaced}");
}

#[tokio::test]
async fn a_window_in_the_future_is_waited_for() {
    let (stub, folder) = (Stub::start().await, Folder::new());
    *stub.book.window.lock().unwrap() = (10 * 86_400, 11 * 86_400);
    let certs = from_stub(&stub, &folder, |_| {}).await;
    let running = Running::start(&certs);
    until("the window", async || *stub.book.asked.lock().unwrap() > 0).await;
    let days = || {
        let next = certs.status().first()?.next_attempt?;
        let wait = next.duration_since(std::time::SystemTime::now()).ok()?;
        Some(wait.as_secs() / 86_400)
    };
    until("the window to be kept", async || days() == Some(10)).await;
    running.end().await;
    assert_eq!(stub.book.orders.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_order_names_the_profile() {
    let (stub, folder) = (Stub::start().await, Folder::new());
    *stub.book.window.lock().unwrap() = (10 * 86_400, 11 * 86_400);
    let profile =
        |settings: &mut super::Settings| settings.acme.profile = Some("shortlived".to_owned());
    let certs = from_stub(&stub, &folder, profile).await;
    let running = Running::start(&certs);
    until("a certificate", async || all_valid(&certs).await).await;
    running.end().await;
    assert_eq!(stub.book.orders.lock().unwrap()[0]["profile"], "shortlived");
}

#[tokio::test]
async fn a_ca_that_says_when_is_not_asked_before() {
    let (stub, folder) = (Stub::start().await, Folder::new());
    *stub.book.window.lock().unwrap() = (10 * 86_400, 11 * 86_400);
    *stub.book.limited.lock().unwrap() = Some(7200);
    let certs = from_stub(&stub, &folder, |_| {}).await;
    let running = Running::start(&certs);
    let text = error(&certs).await;
    assert!(text.contains("too many new orders"), "{text}");
    let next = certs.status()[0].next_attempt.unwrap();
    let wait = next.duration_since(std::time::SystemTime::now()).unwrap();
    assert!((7100..7300).contains(&wait.as_secs()), "{wait:?}");
    running.end().await;
}
