//! Starting zygotes: a Python with our extension, and what its config file says.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::run::RunPlan;
use crate::config::{self, Settings};
use crate::supervise::control::{FromZygote, decode};
use crate::sys::{self, Channel, Child, Spawn, User, boot, fds};

/// A Python that has not said hello by then is not what we think it is. Evaluating a config file
/// may take longer: it is the user's program.
const HELLO: Duration = Duration::from_secs(30);
const CONFIGURE: Duration = Duration::from_secs(120);

/// Why there is no zygote: what to say, and the exit code if it was the first.
#[derive(Debug)]
pub struct ZygoteError {
    pub exit: u8,
    pub text: String,
}

impl ZygoteError {
    fn new(exit: u8, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: text.into(),
        }
    }
}

/// A zygote whose config file has been evaluated.
#[derive(Debug)]
pub struct Configured {
    pub child: Child,
    pub control: Channel,
    pub python: String,
    pub settings: Settings,
    pub warnings: Vec<String>,
    pub master_hooks: bool,
}

/// Starts a zygote as `user` and lets it evaluate the config file.
pub async fn start(plan: &RunPlan, user: Option<&User>) -> Result<Configured, ZygoteError> {
    let (child, control) = spawn(plan, user)?;
    match converse(plan, &control).await {
        Ok((python, settings, warnings, master_hooks)) => Ok(Configured {
            child,
            control,
            python,
            settings,
            warnings,
            master_hooks,
        }),
        Err(error) => {
            let _ = child.pidfd.send(sys::Signal::Kill);
            Err(error)
        }
    }
}

fn spawn(plan: &RunPlan, user: Option<&User>) -> Result<(Child, Channel), ZygoteError> {
    let internal = |error: std::io::Error| ZygoteError::new(1, error.to_string());
    let (ours, theirs) = fds::seqpacket_pair().map_err(internal)?;
    let extension: OwnedFd = boot::extension().map_err(internal)?;
    let python = &plan.written.python;
    let child = Spawn {
        name: "Python",
        program: python,
        args: vec![python.into(), "-c".into(), boot::BOOT.into()],
        env: sys::spawn::own_env(),
        fds: vec![theirs.as_fd(), extension.as_fd()],
        user,
        raise_open_files: true,
    }
    .start()
    .map_err(|error| ZygoteError::new(2, error.to_string()))?;
    Ok((child, Channel::new(ours).map_err(internal)?))
}

type Said = (String, Settings, Vec<String>, bool);

async fn converse(plan: &RunPlan, control: &Channel) -> Result<Said, ZygoteError> {
    let python = match next(control, HELLO, "say hello").await? {
        FromZygote::Hello {
            wire: ostler_wire::VERSION,
            python,
        } => python,
        FromZygote::Unsupported { text } => {
            return Err(ZygoteError::new(
                2,
                format!("{text}; hint: --python names another one"),
            ));
        }
        other => {
            return Err(ZygoteError::new(
                1,
                format!("the zygote said {other:?} at first"),
            ));
        }
    };
    let mut configure = serde_json::to_value(&plan.configure).unwrap_or_else(|_| json!({}));
    configure["type"] = "configure".into();
    control
        .send_json(&configure, &[])
        .await
        .map_err(|error| ZygoteError::new(1, format!("the zygote is gone: {error}")))?;
    match next(control, CONFIGURE, "evaluate its config file").await? {
        FromZygote::Configured {
            settings,
            hooks,
            unknown,
            master_hooks,
        } => {
            let (settings, mut warnings) = finish(plan, &settings, &unknown)?;
            warnings.extend(config::hook_warnings(&hooks).map(|warning| warning.to_string()));
            Ok((python, settings, warnings, master_hooks))
        }
        FromZygote::Failed { exit, text } => Err(ZygoteError::new(exit, text)),
        other => Err(ZygoteError::new(
            1,
            format!("the zygote said {other:?} to its settings"),
        )),
    }
}

fn finish(
    plan: &RunPlan,
    file: &Map<String, Value>,
    unknown: &[String],
) -> Result<(Settings, Vec<String>), ZygoteError> {
    match config::finish(&plan.written, file, unknown) {
        Ok((settings, warnings)) => {
            Ok((settings, warnings.iter().map(ToString::to_string).collect()))
        }
        Err(errors) => {
            let lines: Vec<_> = errors
                .iter()
                .map(|error| format!("error: {error}"))
                .collect();
            Err(ZygoteError::new(2, lines.join("\n")))
        }
    }
}

async fn next(control: &Channel, limit: Duration, what: &str) -> Result<FromZygote, ZygoteError> {
    match tokio::time::timeout(limit, control.recv()).await {
        Ok(Ok(Some(message))) => decode(&message.bytes).map_err(|error| ZygoteError::new(1, error)),
        Ok(Ok(None)) => Err(ZygoteError::new(
            1,
            format!("Python ended before it could {what}"),
        )),
        Ok(Err(error)) => Err(ZygoteError::new(1, error.to_string())),
        Err(_elapsed) => {
            let text = format!("Python did not {what} within {} s", limit.as_secs());
            Err(ZygoteError::new(1, text))
        }
    }
}
