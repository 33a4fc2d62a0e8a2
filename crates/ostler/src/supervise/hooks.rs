//! Hooks of gunicorn's master, called in the hook process that outlives reloads.

use std::time::Duration;

use serde_json::{Value, json};

use crate::sys::Channel;

/// A hook that takes longer is left behind with a warning.
const LIMIT: Duration = Duration::from_secs(30);

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

    /// Calls a hook and waits for its end. The error is the hook's own.
    pub async fn call(&mut self, hook: &str, worker: Value, args: Value) -> Result<(), String> {
        let Some(channel) = &self.channel else {
            return Ok(());
        };
        self.seq += 1;
        let seq = self.seq;
        let call =
            json!({"type": "call", "hook": hook, "seq": seq, "worker": worker, "args": args});
        let answered = tokio::time::timeout(LIMIT, async {
            channel.send_json(&call, &[]).await?;
            while let Some(message) = channel.recv().await? {
                let done: Value = serde_json::from_slice(&message.bytes)?;
                // An answer to a call that was given up comes late.
                if done["seq"] == seq {
                    return Ok::<_, std::io::Error>(done["error"].as_str().map(str::to_owned));
                }
            }
            Err(std::io::ErrorKind::UnexpectedEof.into())
        });
        match answered.await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(error))) => Err(error),
            Ok(Err(error)) => {
                tracing::error!(%error, "the hook process is gone; {hook} is not called");
                self.channel = None;
                Ok(())
            }
            Err(_elapsed) => {
                tracing::error!("the hook {hook} takes longer than {} s", LIMIT.as_secs());
                Ok(())
            }
        }
    }

    /// Calls a hook whose failure is only worth a line.
    pub async fn tell(&mut self, hook: &str, worker: Value, args: Value) {
        if let Err(error) = self.call(hook, worker, args).await {
            tracing::error!("the hook {hook} failed: {error}");
        }
    }

    /// Gives the socket back, for another process to go on with.
    pub fn into_channel(self) -> Option<Channel> {
        self.channel
    }
}
