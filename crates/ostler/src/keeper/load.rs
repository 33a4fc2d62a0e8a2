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
    let user = settings.user.as_ref().map(|account| match account {
        Account::Id(id) => id.to_string(),
        Account::Name(name) => name.clone(),
    });
    let user = user.and_then(|name| users::find_user(&name).ok());
    let group = settings.group.as_ref().and_then(|account| match account {
        Account::Id(id) => Some(*id),
        Account::Name(name) => users::find_group(name).ok(),
    });
    let seconds = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64());
    json!({
        "app": settings.app,
        "interface": settings.interface,
        "preload": settings.preload,
        "chdir": settings.chdir,
        "env": settings.env.iter().cloned().collect::<HashMap<_, _>>(),
        "pythonpath": settings.pythonpath,
        "user": user.as_ref().map(|user| user.uid),
        "group": group.or(user.as_ref().map(|user| user.gid)),
        "groups": user.map(|user| user.groups).unwrap_or_default(),
        "umask": settings.umask,
        "workers": settings.workers,
        "threads": settings.threads,
        "timeout": seconds(settings.timeout),
        "graceful_timeout": settings.graceful_timeout.as_secs_f64(),
        "proc_name": settings.proc_name,
        "error_log": error_log_path(settings),
        "capture_output": settings.capture_output,
        "websocket_threads": settings.websocket_threads,
        "lifespan": settings.lifespan,
        "loop": settings.event_loop,
        "reload": settings.reload,
        "reload_extra_files": settings.reload_extra_files,
        "cfg": config::effective(settings),
        "max_body_inline": MAX_BODY_INLINE,
    })
}
