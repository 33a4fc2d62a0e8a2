//! Starting the hook process: gunicorn's master, as far as configs can see it.

use std::collections::HashMap;
use std::os::fd::AsFd;

use serde_json::{Value, json};

use crate::config::{self, Settings};
use crate::supervise::Hooks;
use crate::sys::{Channel, fds};

use super::log::error_log_path;
use super::zygotes::{Configured, Trouble};

/// Has the zygote fork the hook process when the config file has hooks for it, and calls
/// `on_starting`. It runs where gunicorn's master would: in the app's folder, with its environment,
/// as the user who started us.
///
/// # Errors
/// When that hook raises: it is the place where configs refuse to start.
pub async fn start(zygote: &Configured, settings: &Settings) -> Result<Option<Channel>, Trouble> {
    if !zygote.master_hooks {
        return Ok(None);
    }
    let (ours, theirs) = fds::seqpacket_pair()?;
    let message = json!({
        "type": "hooks",
        "cfg": config::effective(settings),
        "env": settings.app.env.iter().cloned().collect::<HashMap<_, _>>(),
        "chdir": settings.app.chdir,
        "pythonpath": settings.app.pythonpath,
        "umask": settings.process.umask,
        "error_log": error_log_path(settings),
        "capture_output": settings.logs.capture_output,
    });
    zygote
        .control
        .send_json(&message, &[theirs.as_fd()])
        .await?;
    drop(theirs);
    let mut hooks = Hooks::new(Some(Channel::new(ours)?));
    match hooks.call("on_starting", Value::Null, json!({})).await {
        Ok(()) => Ok(hooks.into_channel()),
        Err(error) => Err(Trouble {
            exit: 1,
            text: format!("error: on_starting failed:\n{error}"),
        }),
    }
}
