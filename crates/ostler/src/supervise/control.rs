//! What zygotes and workers say on their control sockets, decoded with distrust.

use serde::Deserialize;

use super::Interface;

/// A message from a zygote.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromZygote {
    Hello {
        wire: u32,
        python: String,
    },
    Unsupported {
        text: String,
    },
    Configured {
        settings: serde_json::Map<String, serde_json::Value>,
        #[serde(default)]
        hooks: Vec<String>,
        #[serde(default)]
        master_hooks: bool,
        #[serde(default)]
        unknown: Vec<String>,
    },
    Loaded {
        preloaded: bool,
        why_not: Option<String>,
    },
    /// Start-up ended: an import error, a missing callable, a broken config file.
    Failed {
        exit: u8,
        text: String,
    },
    Forked {
        worker: u64,
        pid: u32,
    },
    Exited {
        worker: u64,
        /// As `waitpid(2)` gives it.
        status: i32,
    },
}

/// A message from a worker.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromWorker {
    Booted {
        wire: u32,
        interface: Interface,
    },
    Ready,
    /// One more slot, made by the worker; its socket comes with the message.
    Slot,
    Failed {
        exit: u8,
        text: String,
    },
    Log {
        level: String,
        text: String,
    },
    /// A file of the app changed on disk (`--reload`).
    Changed {
        file: String,
    },
}

/// Decodes one message; the error names what was seen, cut to a line.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let seen: String = String::from_utf8_lossy(bytes).chars().take(120).collect();
        format!("{error} in {seen:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_are_read_and_unknown_ones_are_named() {
        let message: FromWorker =
            decode(br#"{"type":"booted","wire":1,"pid":7,"interface":"asgi"}"#).expect("known");
        assert!(matches!(
            message,
            FromWorker::Booted {
                wire: 1,
                interface: Interface::Asgi
            }
        ));
        let error = decode::<FromWorker>(br#"{"type":"sing"}"#).expect_err("unknown");
        assert!(error.contains("sing"), "{error}");
        assert!(decode::<FromZygote>(b"\xff\xfe").is_err());
    }
}
