//! What a zygote is told to load: its `load` message, made from settings. Sends nothing.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{self, Account, Settings};
use crate::sys::users;

use super::log::error_log_path;

/// Longest request body that comes within the first message of a request, in bytes.
const MAX_BODY_INLINE: u32 = 65_536;

/// The fields of the `load` message that settings decide.
pub fn load_message(settings: &Settings) -> Value {
    let user = settings.process.user.as_ref().map(|account| match account {
        Account::Id(id) => id.to_string(),
        Account::Name(name) => name.clone(),
    });
    let user = user.and_then(|name| users::find_user(&name).ok());
    let group = settings
        .process
        .group
        .as_ref()
        .and_then(|account| match account {
            Account::Id(id) => Some(*id),
            Account::Name(name) => users::find_group(name).ok(),
        });
    let seconds = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64());
    json!({
        "app": settings.app.name,
        "interface": settings.app.interface,
        "preload": settings.app.preload,
        "chdir": settings.app.chdir,
        "env": settings.app.env.iter().cloned().collect::<HashMap<_, _>>(),
        "pythonpath": settings.app.pythonpath,
        "user": user.as_ref().map(|user| user.uid),
        "group": group.or(user.as_ref().map(|user| user.gid)),
        "groups": user.map(|user| user.groups).unwrap_or_default(),
        "umask": settings.process.umask,
        "workers": settings.workers.count,
        "threads": settings.workers.threads,
        "timeout": seconds(settings.workers.timeout),
        "graceful_timeout": settings.workers.graceful_timeout.as_secs_f64(),
        "proc_name": settings.process.proc_name,
        "error_log": error_log_path(settings),
        "capture_output": settings.logs.capture_output,
        "websocket_threads": settings.workers.websocket_threads,
        "lifespan": settings.app.lifespan,
        "loop": settings.app.event_loop,
        "perf": settings.app.perf,
        "reload": settings.process.reload,
        "reload_extra_files": settings.process.reload_extra_files,
        "cfg": config::effective(settings),
        "max_body_inline": MAX_BODY_INLINE,
    })
}
