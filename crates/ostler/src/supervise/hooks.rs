//! Hooks of gunicorn's master, called in the hook process that outlives reloads.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::sys::Channel;

/// A hook that takes longer is left behind with a line in the log.
const LIMIT: Duration = Duration::from_secs(30);

/// Calls that may wait. Each end of a worker is one; past this, the hooks are hopelessly behind.
const QUEUE: usize = 1024;

/// The hook process, if the config file defines hooks for it.
#[derive(Debug)]
pub struct Hooks {
    channel: Option<Channel>,
    seq: u64,
}

impl Hooks {
    /// `channel` is our end of the hook process's socket.
    pub fn new(channel: Option<Channel>) -> Self {
        Self { channel, seq: 0 }
    }

    /// Calls a hook and waits for its end, at most 30 s. The error is the hook's own.
    pub async fn call(&mut self, hook: &str, worker: Value, args: Value) -> Result<(), String> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        self.seq += 1;
        let call = json!({
            "type": "call", "hook": hook, "seq": self.seq, "worker": worker, "args": args,
        });
        match timeout(LIMIT, converse(channel, &call)).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(error))) => Err(error),
            Ok(Err(error)) => {
                tracing::error!("the hook process is gone, no hook is called any more: {error}");
                self.channel = None;
                Ok(())
            }
            Err(_elapsed) => {
                let limit = LIMIT.as_secs();
                tracing::error!("the hook {hook} takes longer than {limit} s; nobody waits for it");
                Ok(())
            }
        }
    }

    /// Gives the socket back, for another process to go on with.
    pub fn into_channel(self) -> Option<Channel> {
        self.channel
    }
}

/// One call and its answer: what the hook raised, if it did.
async fn converse(channel: &Channel, call: &Value) -> io::Result<Option<String>> {
    channel.send_json(call, &[]).await?;
    while let Some(message) = channel.recv().await? {
        let done: Value = serde_json::from_slice(&message.bytes)?;
        // An answer to a call that was given up comes late.
        if done["seq"] == call["seq"] {
            return Ok(done["error"].as_str().map(str::to_owned));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "its socket is closed",
    ))
}

/// Calls hooks one after the other, so that whoever asks for one need not wait for it.
#[derive(Debug)]
pub struct HookQueue {
    calls: Option<mpsc::Sender<Call>>,
    task: JoinHandle<()>,
    /// The queue was full at the last call, which was said then.
    full: bool,
}

#[derive(Debug)]
struct Call {
    hook: &'static str,
    worker: Value,
    args: Value,
}

impl HookQueue {
    /// Starts the task that calls; without a hook process there is nothing to call.
    pub fn start(hooks: Hooks) -> Self {
        if hooks.channel.is_none() {
            return Self {
                calls: None,
                task: tokio::spawn(async {}),
                full: false,
            };
        }
        let (calls, waiting) = mpsc::channel(QUEUE);
        Self {
            calls: Some(calls),
            task: tokio::spawn(call_all(hooks, waiting)),
            full: false,
        }
    }

    /// Has a hook called after those that wait. Its failure is worth a line, no more.
    pub fn call(&mut self, hook: &'static str, worker: Value, args: Value) {
        let Some(calls) = &self.calls else { return };
        let queued = calls.try_send(Call { hook, worker, args }).is_ok();
        if !queued && !self.full {
            tracing::error!("{QUEUE} hooks wait to be called; more are left out");
        }
        self.full = !queued;
    }

    /// Waits for the calls that were asked for, at most as long as one hook may take.
    pub async fn finish(mut self) {
        drop(self.calls.take());
        if timeout(LIMIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn call_all(mut hooks: Hooks, mut waiting: mpsc::Receiver<Call>) {
    while let Some(Call { hook, worker, args }) = waiting.recv().await {
        if let Err(error) = hooks.call(hook, worker, args).await {
            tracing::error!("the hook {hook} failed:\n{error}");
        }
    }
}
