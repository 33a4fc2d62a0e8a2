//! Certificates from the real pebble, handed out by a real TLS server.

use super::settings::{Challenge, Wanted};
use super::testing::{Edge, Pebble, Running, TLS_PORT, client_of, connect_tls, until};

fn wanted(names: &[&str]) -> Wanted {
    Wanted::acme(names, Challenge::Http01).unwrap()
}

#[tokio::test]
async fn a_name_gets_its_certificate_and_serves_it() {
    let pebble = Pebble::start();
    let certs = pebble.certs(vec![wanted(&["shop.example"])]);
    let edge = Edge::start(pebble.address, &certs).await;
    let root = client_of(&pebble.issuing_root().await);
    let at = (pebble.address, TLS_PORT).into();
    assert!(
        connect_tls(at, "shop.example", root.clone()).await.is_err(),
        "nobody trusts what is served before"
    );
    let running = Running::start(&certs);
    until("a trusted handshake", async || {
        connect_tls(at, "shop.example", root.clone()).await.is_ok()
    })
    .await;
    assert!(
        connect_tls(at, "other.example", root.clone())
            .await
            .is_err()
    );
    until("all is written", async || {
        certs.status()[0].state == "valid"
    })
    .await;
    running.end().await;
    // Another server finds it on disk.
    let again = pebble.certs(vec![wanted(&["shop.example"])]);
    edge.end().await;
    let _edge = Edge::start(pebble.address, &again).await;
    assert!(connect_tls(at, "shop.example", root).await.is_ok());
}
