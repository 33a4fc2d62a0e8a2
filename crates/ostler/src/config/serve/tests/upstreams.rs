//! Upstreams: what they become, and what is refused.

use std::time::Duration;

use super::super::Upstreams;
use super::{Folder, SMALL};

/// A project without a source, with `more`.
const PROXY: &str = "[projects.shop]\nhosts = [\"*\"]\n";

fn upstreams(more: &str) -> Vec<Option<Upstreams>> {
    let text = format!("{PROXY}{more}");
    let serve = Folder::with(&[("ostler.toml", &text), ("ca.pem", "x")])
        .good(&[])
        .serve;
    let routes = serve
        .projects
        .into_iter()
        .flat_map(|project| project.routes);
    routes.map(|route| route.rules.upstreams).collect()
}

fn shown(upstreams: &Upstreams) -> Vec<(String, u32)> {
    let targets = upstreams.targets.iter();
    targets
        .map(|target| (target.address.to_string(), target.weight))
        .collect()
}

#[test]
fn the_short_form_and_the_long_one() {
    let short = upstreams("upstreams = [\"http://127.0.0.1:9000\", \"unix:/run/app.sock\"]");
    let [Some(short)] = &short[..] else {
        panic!("{short:?}")
    };
    let both = [
        ("http://127.0.0.1:9000".to_owned(), 1),
        ("unix:/run/app.sock".to_owned(), 1),
    ];
    assert_eq!(shown(short), both);
    assert_eq!(
        (short.connect, short.response),
        (Duration::from_secs(5), Duration::from_secs(60))
    );
    assert_eq!((short.keepalive, short.most, short.retries), (64, 1000, 2));
    assert!(short.request_buffering && short.sticky.is_none() && short.health.is_none());
    let long = upstreams(
        r#"
proxy = { sticky = true, timeout = 0, health_path = "/up", ca = "ca.pem", host = "upstream" }
[[projects.shop.upstreams]]
address = "https://App_1:8443"
weight = 3
"#,
    );
    let [Some(long)] = &long[..] else {
        panic!("{long:?}")
    };
    assert_eq!(shown(long), [("https://app_1:8443".to_owned(), 3)]);
    assert_eq!(long.sticky.as_deref(), Some("ostler_upstream"));
    assert!(long.response > Duration::from_secs(86_400) && long.own_host);
    assert!(long.ca.as_ref().is_some_and(|ca| ca.is_absolute()));
    assert_eq!(
        long.health.as_ref().map(|health| health.path.as_str()),
        Some("/up")
    );
}

#[test]
fn a_route_has_its_own_upstreams_and_what_it_says_about_them() {
    let all = upstreams(
        r#"
upstreams = "http://a"
proxy = { timeout = 5, retries = 0 }
[[projects.shop.routes]]
[[projects.shop.routes]]
prefix = "/b"
upstreams = "http://b"
proxy.timeout = 7
"#,
    );
    let [Some(a), Some(b)] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(
        (shown(a)[0].0.as_str(), shown(b)[0].0.as_str()),
        ("http://a", "http://b")
    );
    assert_eq!((a.response.as_secs(), b.response.as_secs()), (5, 7));
    assert_eq!((a.retries, b.retries), (0, 0));
}

#[test]
fn what_is_wrong_with_upstreams() {
    for (more, problem) in [
        ("upstreams = []", "`upstreams` names no upstream"),
        ("upstreams = [1]", "`upstreams` needs addresses"),
        (
            "upstreams = [\"127.0.0.1:9000\"]",
            "\"127.0.0.1:9000\" says not how it is spoken to",
        ),
        ("upstreams = [\"http://a/x\"]", "\"http://a/x\" has a path"),
        (
            "upstreams = [\"http://a\", \"http://A:80\"]",
            "one upstream is named twice",
        ),
        (
            "upstreams = [{ weight = 2 }]",
            "an upstream needs an `address`",
        ),
        (
            "upstreams = [{ address = \"http://a\", weight = 0 }]",
            "`weight` needs",
        ),
        (
            "upstreams = [{ adress = \"http://a\" }]",
            "did you mean `address`?",
        ),
        (
            "upstreams = \"http://a\"\nproxy.health_path = \"up\"",
            "`health_path` is no path",
        ),
        (
            "upstreams = \"http://a\"\nproxy.sticky_cookie = \"a;b\"",
            "`sticky_cookie` is no name of a cookie",
        ),
        (
            "upstreams = \"http://a\"\nproxy.tls_name = \"a b\"",
            "`tls_name` names no host",
        ),
        (
            "upstreams = \"http://a\"\nproxy.ca = \"none.pem\"",
            "`ca` names no file",
        ),
        (
            "upstreams = \"http://a\"\nproxy.timout = 1",
            "did you mean `timeout`?",
        ),
        (
            "upstreams = \"http://a\"\nproxy.host = \"mine\"",
            "`host` needs one of client, upstream",
        ),
        (
            "upstreams = \"http://a\"\nweb.app = \"app:app\"",
            "has an app, and all of it goes to upstreams",
        ),
        (
            "source = \".\"\nweb.app = \"app:app\"\nproxy.timeout = 1",
            "`proxy` is set and there are no `upstreams`",
        ),
        ("", "project `shop` has no `source`"),
    ] {
        let text = format!("{PROXY}{more}");
        let told = Folder::with(&[("ostler.toml", &text)]).problems(&[]);
        assert!(told.contains(problem), "{more}\n{told}");
    }
}

#[test]
fn upstreams_are_the_operators() {
    for (key, text) in [
        ("upstreams", "upstreams = \"http://169.254.169.254\""),
        ("proxy", "proxy.timeout = 1"),
    ] {
        let told =
            Folder::with(&[("ostler.toml", SMALL), ("shop/ostler.toml", text)]).problems(&[]);
        let wanted = format!("`{key}` is the operator's to set");
        assert!(told.contains(&wanted), "{told}");
    }
}
