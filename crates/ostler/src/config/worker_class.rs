//! gunicorn's worker classes, mapped to ostler's one worker. Refuses those that ostler cannot stand in for.

use serde::{Deserialize, Serialize};

use super::error::Complaint;

/// What a worker class asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerClass {
    /// One request at a time, unless `threads` says more.
    Sync,
    /// Threads.
    Gthread,
    /// An event loop: the app is ASGI.
    Asgi,
}

/// A worker class as it was written, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub class: WorkerClass,
    /// The event loop that this class runs on whatever is installed (uvicorn's H11 worker: asyncio).
    pub event_loop: Option<&'static str>,
    /// True for a class of the user's own that is built on uvicorn's: its settings are not read.
    pub derived: bool,
}

/// Worker classes that patch the standard library or bring a server of their own.
const FOREIGN: [&str; 6] = [
    "gevent", "eventlet", "tornado", "meinheld", "gaiohttp", "aiohttp",
];

/// Maps a worker class, given as gunicorn's short name, as `package.module.Class` or as `repr` of a class.
///
/// # Errors
/// A class whose server ostler cannot stand in for, with the ways out.
pub fn map(written: &str) -> Result<Mapped, Complaint> {
    let name = bare(written);
    let mapped = |class| {
        Ok(Mapped {
            class,
            event_loop: None,
            derived: false,
        })
    };
    let class = name.rsplit(['.', '#', ':']).next().unwrap_or(name);
    match name {
        "sync" | "gunicorn.workers.sync.SyncWorker" => return mapped(WorkerClass::Sync),
        "gthread" | "gunicorn.workers.gthread.ThreadWorker" => return mapped(WorkerClass::Gthread),
        "asgi" | "gunicorn.workers.gasgi.ASGIWorker" => return mapped(WorkerClass::Asgi),
        _ if class == "UvicornWorker" => return mapped(WorkerClass::Asgi),
        _ if class == "UvicornH11Worker" => {
            return Ok(Mapped {
                class: WorkerClass::Asgi,
                event_loop: Some("asyncio"),
                derived: false,
            });
        }
        _ if class.ends_with("UvicornWorker") => {
            return Ok(Mapped {
                class: WorkerClass::Asgi,
                event_loop: None,
                derived: true,
            });
        }
        _ => {}
    }
    let lower = name.to_ascii_lowercase();
    if let Some(foreign) = FOREIGN.iter().find(|foreign| lower.contains(*foreign)) {
        return Err(Complaint::new(
            format!("names {foreign}, which ostler's workers do not run on"),
            format!(
                "use threads instead (--threads 16, or -k uvicorn.workers.UvicornWorker for an ASGI app), \
                 or go on running gunicorn -k {written} and let ostler be the proxy in front of it"
            ),
        ));
    }
    Err(Complaint::new(
        "names a class that ostler cannot stand in for",
        "use sync, gthread (with --threads N), asgi or uvicorn.workers.UvicornWorker, \
         or go on running gunicorn with this class and let ostler be the proxy in front of it",
    ))
}

/// `<class 'a.b.C'>` → `a.b.C`: a config file may set the class itself, which arrives as its `repr`.
/// `egg:gunicorn#sync` is an old way to say `sync`.
fn bare(written: &str) -> &str {
    let inside = written
        .trim()
        .strip_prefix("<class '")
        .and_then(|rest| rest.strip_suffix("'>"));
    let name = inside.unwrap_or(written).trim();
    name.strip_prefix("egg:gunicorn#").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_ours() {
        let check = |text: &str, class: WorkerClass, event_loop: Option<&str>, derived: bool| {
            let mapped = map(text).expect(text);
            assert_eq!(
                (mapped.class, mapped.event_loop, mapped.derived),
                (class, event_loop, derived),
                "{text}"
            );
        };
        check("sync", WorkerClass::Sync, None, false);
        check(
            "gunicorn.workers.sync.SyncWorker",
            WorkerClass::Sync,
            None,
            false,
        );
        check("gthread", WorkerClass::Gthread, None, false);
        check("egg:gunicorn#gthread", WorkerClass::Gthread, None, false);
        check(
            "<class 'gunicorn.workers.gthread.ThreadWorker'>",
            WorkerClass::Gthread,
            None,
            false,
        );
        check("asgi", WorkerClass::Asgi, None, false);
        check(
            "uvicorn.workers.UvicornWorker",
            WorkerClass::Asgi,
            None,
            false,
        );
        check(
            "uvicorn_worker.UvicornWorker",
            WorkerClass::Asgi,
            None,
            false,
        );
        check(
            "uvicorn.workers.UvicornH11Worker",
            WorkerClass::Asgi,
            Some("asyncio"),
            false,
        );
        check(
            "shop.workers.HeadlessUvicornWorker",
            WorkerClass::Asgi,
            None,
            true,
        );
    }

    #[test]
    fn classes_of_others() {
        let check = |text: &str, what: &str| {
            let complaint = map(text).expect_err(text);
            assert!(complaint.what.contains(what), "{text}: {}", complaint.what);
            assert!(
                complaint.hint.contains("proxy in front"),
                "{text}: {}",
                complaint.hint
            );
        };
        check("gevent", "names gevent");
        check("gevent_wsgi", "names gevent");
        check("gevent_pywsgi", "names gevent");
        check("gunicorn.workers.ggevent.GeventWorker", "names gevent");
        check(
            "geventwebsocket.gunicorn.workers.GeventWebSocketWorker",
            "names gevent",
        );
        check("eventlet", "names eventlet");
        check("tornado", "names tornado");
        check("aiohttp.GunicornWebWorker", "names aiohttp");
        check("shop.workers.Mine", "names a class");
        assert!(
            map("gevent")
                .expect_err("refused")
                .hint
                .contains("--threads")
        );
    }
}
