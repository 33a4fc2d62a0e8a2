//! Rules beside an app: what they become, and what is refused.

use std::time::Duration;

use super::super::rules::{By, Rate, TokenKeys};
use super::{Folder, Rules, SMALL};
use crate::config::Trust;

fn with(more: &str) -> String {
    format!("{SMALL}{more}")
}

fn rules(more: &str) -> Vec<Rules> {
    let files = [
        ("ostler.toml", &*with(more)),
        ("shop/p.html", "x"),
        ("shop/q.html", "y"),
    ];
    let mut serve = Folder::with(&files).good(&[("HASH", HASH)]).serve;
    let routes = serve.projects.remove(0).routes;
    routes.into_iter().map(|route| route.rules).collect()
}

const HASH: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

#[test]
fn a_route_has_the_rules_of_its_project_but_for_its_own() {
    let both = rules(
        r#"
maintenance = true
compress = false
trace_context = false
access = { allow = ["10.0.0.0/8"], keys = true, users = { ada = "${HASH}" } }
limits = { body = "1KiB", rate = ["2/m", "9/h per key burst 3"] }
headers.set = { X-A = "1" }
redirects = [{ from = "/a", to = "/b" }]
errors.pages = { 404 = "p.html" }
[[projects.shop.routes]]
[[projects.shop.routes]]
prefix = "/api"
maintenance = false
compress = true
access = { allow = "*", keys = false }
limits.rate = []
headers.add = { X-B = "2" }
redirects = []
errors = { pages = { 5xx = "q.html" }, app = true }
"#,
    );
    let [project, api] = &both[..] else {
        panic!("two routes");
    };
    let rate = |quota, seconds, burst, by| Rate {
        quota,
        window: Duration::from_secs(seconds),
        burst,
        by,
    };
    let rates = [rate(2, 60, 2, By::Address), rate(9, 3600, 3, By::Key)];
    assert_eq!(
        (project.limits.body, &project.limits.rates[..]),
        (Some(1024), &rates[..])
    );
    assert_eq!(
        (api.limits.body, &api.limits.rates[..]),
        (Some(1024), &[][..])
    );
    assert!(project.maintenance && !api.maintenance);
    assert!(!project.compress && api.compress);
    assert!(!project.trace_context && !api.trace_context);
    assert!(project.access.keys.is_some() && api.access.keys.is_none());
    assert_eq!(project.access.users, [("ada".to_owned(), HASH.to_owned())]);
    assert_eq!(api.access.users, project.access.users);
    assert_eq!(api.access.allow, Some(Trust::Everyone));
    assert_eq!((project.redirects.len(), api.redirects.len()), (1, 0));
    assert_eq!((api.headers.set.len(), api.headers.add.len()), (1, 1));
    let pages = |rules: &Rules| {
        rules
            .errors
            .pages
            .iter()
            .map(|(status, _)| status.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (pages(project), pages(api), api.errors.app),
        (vec!["404".to_owned()], vec!["5xx".to_owned()], true)
    );
    assert_eq!(rules(""), [Rules::default_of_a_route()]);
}

#[test]
fn servers_that_are_asked() {
    let both = rules(
        r#"
access = { jwt_keys = "https://id.test/jwks", jwt_issuer = "i", jwt_audience = "a" }
[[projects.shop.routes]]
[[projects.shop.routes]]
prefix = "/api"
access = { forward_auth = "http://auth:9091/verify", forward_auth_copy = ["X-Groups"], forward_auth_user = "X-User", forward_auth_timeout = "1500ms" }
"#,
    );
    let [project, api] = &both[..] else {
        panic!("two routes");
    };
    let keys = project.access.tokens.as_ref().map(|source| &source.keys);
    assert_eq!(
        keys,
        Some(&TokenKeys::Url("https://id.test/jwks".to_owned()))
    );
    assert_eq!(project.access.authority, None);
    let authority = api.access.authority.as_ref().expect("one is named");
    assert_eq!(authority.url, "http://auth:9091/verify");
    assert_eq!(authority.user.as_deref(), Some("X-User"));
    assert_eq!(authority.copy, ["X-Groups"]);
    assert_eq!(authority.timeout, Duration::from_millis(1500));
    let off = rules(
        "access.forward_auth = \"https://auth.test/\"\n[[projects.shop.routes]]\nprefix = \"/p\"\naccess.forward_auth = \"off\"\n",
    );
    assert!(off[0].access.authority.is_none(), "{off:?}");
}

/// Each text stands at the end of a file; each is refused with this line.
#[test]
fn what_is_wrong_with_a_rule() {
    for (more, problem) in [
        ("access.keys = 1", "`keys` needs true or false"),
        (
            "access.key_hash = \"md5\"",
            "`key_hash` needs one of sha256, sha512, argon2id",
        ),
        ("access.key_file = \"\"", "`key_file` is empty"),
        (
            "access = { jwt_keys = \"http://id.test/jwks\", jwt_issuer = \"i\", jwt_audience = \"a\" }",
            "`jwt_keys` is a URL without TLS",
        ),
        (
            "access = { jwt_keys = \"none.json\", jwt_issuer = \"i\", jwt_audience = \"a\" }",
            "`jwt_keys` names no file",
        ),
        (
            "access.forward_auth = \"auth.test/x\"",
            "`forward_auth` is no http or https URL",
        ),
        (
            "access.forward_auth = \"https://u:p@auth.test/\"",
            "`forward_auth` is no http or https URL",
        ),
        (
            "access.forward_auth_user = \"X_User\"",
            "`forward_auth_user` has an underscore",
        ),
        (
            "access.forward_auth_copy = [\"X-Forwarded-For\"]",
            "`forward_auth_copy` says who is asking",
        ),
        (
            "access.forward_auth_copy = [\"X-Ostler-User\"]",
            "`forward_auth_copy` says who is asking",
        ),
        (
            "access.forward_auth_copy = [\"Content-Length\"]",
            "`forward_auth_copy` is ostler's own",
        ),
        (
            "access.forward_auth_timeout = \"2m\"",
            "`forward_auth_timeout` is not between 0 and 60 s",
        ),
        (
            "access.allow = [\"10.0.0.1/8\"]",
            "`allow` has \"10.0.0.1/8\"",
        ),
        ("access.deny = \"*\"", "`deny` is for everyone"),
        (
            "access.users = { ada = \"secret\" }",
            "`users` has a value that is no password hash",
        ),
        (
            "access.users = { \"a:b\" = \"${HASH}\" }",
            "\"a:b\" is no name of a user",
        ),
        (
            "limits.rate = \"10\"",
            "`rate` has \"10\", which is no rate",
        ),
        (
            "limits.rate = \"10/s per key\"",
            "`rate` counts per key, and nobody needs one",
        ),
        ("limits.body = -1", "`body` needs a number of bytes"),
        (
            "headers.set = { Content-Length = \"1\" }",
            "\"Content-Length\" is ostler's own to write",
        ),
        (
            "headers.set = { X-A = \"a\\r\\nb\" }",
            "`set` is no value of a field",
        ),
        (
            "headers.remove = [\"Connection\"]",
            "`remove` is ostler's own to write",
        ),
        (
            "headers.request_set = { X-Ostler-User = \"root\" }",
            "\"X-Ostler-User\" says who is asking",
        ),
        (
            "redirects = [{ from = \"/a\" }]",
            "a redirect needs `from` and `to`",
        ),
        (
            "redirects = [{ from = \"/a\", to = \"//b\" }]",
            "`to` is no path and no address",
        ),
        (
            "redirects = [{ from = \"/a\", to = \"/b\", status = 303 }]",
            "`status` is none of 301",
        ),
        ("redirects = 1", "`redirects` needs sections"),
        (
            "errors.pages = { 200 = \"p.html\" }",
            "\"200\" is no status of an error",
        ),
        (
            "errors.pages = { 404 = \"missing.html\" }",
            "`404` names no file",
        ),
        (
            "errors.maintenance = \"missing.html\"",
            "`maintenance` names no file",
        ),
        ("cors.origins = \"example.com\"", "`origins` is no origin"),
        (
            "cors = { origins = \"*\", credentials = true }",
            "`credentials` for every origin",
        ),
        ("cors.max_age = 5", "[cors] has no `origins`"),
        (
            "acess.keys = true",
            "unknown key `acess` in [projects.shop]",
        ),
    ] {
        let text = with(more);
        let told =
            Folder::with(&[("ostler.toml", &*text), ("shop/", "")]).problems(&[("HASH", HASH)]);
        assert!(
            told.starts_with(&format!("error: {problem}")),
            "{more}:\n{told}"
        );
        assert!(told.contains("hint: "), "{told}");
    }
}

#[test]
fn a_repository_cannot_open_what_the_operator_closes() {
    for (key, text) in [
        ("access", "access.keys = false"),
        ("limits", "limits.body = 0"),
        ("maintenance", "maintenance = false"),
    ] {
        let told =
            Folder::with(&[("ostler.toml", SMALL), ("shop/ostler.toml", text)]).problems(&[]);
        assert!(
            told.contains(&format!("`{key}` is the operator's to set")),
            "{told}"
        );
    }
    let own = "errors.pages = { 404 = \"../ostler.toml\" }";
    let told = Folder::with(&[("ostler.toml", SMALL), ("shop/ostler.toml", own)]).problems(&[]);
    assert!(told.contains("leads out of the checkout"), "{told}");
    let many: String = (0..1001)
        .map(|n| format!("[[redirects]]\nfrom = \"/{n}\"\nto = \"/x\"\n"))
        .collect();
    let told = Folder::with(&[("ostler.toml", SMALL), ("shop/ostler.toml", &many)]).problems(&[]);
    assert!(told.contains("`redirects` has 1001 entries"), "{told}");
}

/// Whatever the key, and in what form: what a variable says is nowhere, and the print means the same.
#[test]
fn values_of_variables_are_printed_and_told_as_they_are_written() {
    let text = with(
        "headers.request_set = { X-Token = \"Bearer ${TOKEN}\" }\naccess.forward_auth = \"http://127.0.0.1/${TOKEN}\"\nerrors.pages = { 404 = \"${TOKEN}.html\" }\nroutes = [{ prefix = \"/\" }, { prefix = \"/api\", upstreams = [\"http://${TOKEN}.test\"] }]\n",
    );
    let server = "[server]\nstate = \"${HOME}/state\"\nlisten = [\"unix:a.sock\", \"unix:${HOME}/b.sock\"]\nadmin = \"${ADMIN}\"\n";
    let text = format!("{text}{server}");
    let folder = Folder::with(&[("ostler.toml", &*text), ("shop/hunter2.html", "")]);
    let variables = [
        ("TOKEN", "hunter2"),
        ("HOME", "/srv/hunter2"),
        ("ADMIN", "127.0.0.1:9100"),
    ];
    let checked = folder.good(&variables);
    let printed = checked.print();
    for line in [
        "request_set = { X-Token = \"Bearer ${TOKEN}\" }",
        "forward_auth = \"http://127.0.0.1/${TOKEN}\"",
        "upstreams = [\"http://${TOKEN}.test\"]",
        "pages = { 404 = \"${TOKEN}.html\" }",
        "state = \"${HOME}/state\"",
        "listen = [\"unix:DIR/a.sock\", \"unix:${HOME}/b.sock\"]",
        "admin = \"${ADMIN}\"",
    ] {
        let printed = folder.without_names(&printed);
        assert!(printed.contains(line), "{line}\n{printed}");
    }
    assert!(!printed.contains("hunter2"), "{printed}");
    std::fs::write(folder.0.join("ostler.toml"), printed).expect("write");
    let again = folder.good(&variables).serve;
    assert_eq!(again.machine.listening, checked.serve.machine.listening);
    assert_eq!(again.projects[0].routes, checked.serve.projects[0].routes);
    let wrong = with("upstreams = [\"http://ada:${TOKEN}@api.test\"]\n");
    let folder = Folder::with(&[("ostler.toml", &*wrong), ("shop/", "")]);
    let told = folder.problems(&variables);
    assert!(told.contains("ada:${TOKEN}@api.test"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn passwords_are_not_printed() {
    let text = with(
        "access.users = { ada = \"${HASH}\", eve = \"$$argon2id$$v=19$$m=8$$c2FsdA$$ZGlnZXN0\" }\nredirects = [{ from = \"/a\", to = \"/b\" }]\n",
    );
    let printed = Folder::with(&[("ostler.toml", &*text), ("shop/", "")])
        .good(&[("HASH", HASH)])
        .print();
    assert!(
        printed.contains("users = { ada = \"${HASH}\", eve = \"…\" }"),
        "{printed}"
    );
    assert!(
        printed.contains("[[projects.shop.redirects]]\nfrom = \"/a\""),
        "{printed}"
    );
}
