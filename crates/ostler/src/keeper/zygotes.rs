//! Starting zygotes: a Python with our extension, and what its config file says.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::cli::run::RunPlan;
use crate::config::{self, Settings};
use crate::keeper::load::load_message;
use crate::supervise::control::{FromZygote, decode};
use crate::sys::{self, Channel, Child, Exit, Pidfd, Signal, Spawn, User, boot, fds, process};

/// A Python that has not said hello by then is not what we think it is. Evaluating a config file
/// may take longer: it is the user's program.
const HELLO: Duration = Duration::from_secs(60);
const CONFIGURE: Duration = Duration::from_secs(120);

/// An app that is imported for `--check-config` only; as long as a start gives it.
const LOAD: Duration = Duration::from_secs(300);

/// A process that was killed or has closed its socket is gone within this.
const ENDING: Duration = Duration::from_secs(2);

/// Why there is no zygote: what to say, and the exit code if it was the first.
#[derive(Debug)]
pub struct Trouble {
    pub exit: u8,
    pub text: String,
}

/// A zygote whose config file has been evaluated.
#[derive(Debug)]
pub struct Configured {
    pub child: Child,
    pub control: Channel,
    /// The version of Python.
    pub python: String,
    pub settings: Settings,
    pub warnings: Vec<String>,
    pub master_hooks: bool,
}

impl Configured {
    /// Has the app loaded, for the sake of what goes wrong: `--check-config`.
    ///
    /// # Errors
    /// As a start would report it: an import that fails is 3, a missing callable 4.
    pub async fn check_app(&self) -> Result<(), Trouble> {
        let mut load = load_message(&self.settings);
        load["type"] = "load".into();
        load["generation"] = 1.into();
        // In this process, whatever a start would do: there will be no worker to import it.
        load["preload"] = "on".into();
        // Nobody is served: that is no run.
        load["perf"] = Value::Null;
        self.control.send_json(&load, &[]).await?;
        let trouble = |exit, text| Err(Trouble { exit, text });
        let Ok(said) = timeout(LOAD, self.control.recv()).await else {
            let text = format!(
                "error: the app was not imported within {} s",
                LOAD.as_secs()
            );
            return trouble(3, text);
        };
        let Some(message) = said? else {
            let exit = end_of(&self.child).await;
            let text = format!("error: Python ended while it imported the app: {exit}");
            return trouble(3, text);
        };
        match decode(&message.bytes) {
            Ok(FromZygote::Loaded { .. }) => Ok(()),
            Ok(FromZygote::Failed { exit, text }) => trouble(exit, text),
            Ok(other) => trouble(1, format!("error: the zygote said {other:?} to its app")),
            Err(error) => trouble(1, format!("error: {error}")),
        }
    }

    /// Ends a zygote that nobody needs.
    pub async fn end(self) {
        let _ = self.child.pidfd.send(Signal::Kill);
        end_of(&self.child).await;
    }
}

/// What went wrong while a zygote was asked for its settings.
#[derive(Debug)]
pub struct Unfit {
    trouble: Trouble,
    /// The process ended by itself; how, is for whoever reaps it to say. What may help then.
    ended: Option<&'static str>,
}

impl Unfit {
    fn new(exit: u8, text: impl Into<String>) -> Self {
        Self {
            trouble: Trouble {
                exit,
                text: text.into(),
            },
            ended: None,
        }
    }

    /// Kills what is still there: it is of no use.
    pub fn kill_if_alive(&self, pidfd: &Pidfd) {
        if self.ended.is_none() {
            let _ = pidfd.send(Signal::Kill);
        }
    }

    /// The whole story.
    pub fn ended_by(self, exit: Exit) -> Trouble {
        let Self { mut trouble, ended } = self;
        if let Some(hint) = ended {
            trouble.text += &format!(": {exit}; hint: {hint}");
        }
        trouble
    }
}

/// Starts a zygote and lets it evaluate the config file. For when nothing else reaps children.
///
/// # Errors
/// When there is no such Python, when it is unfit, and when the config file or what it says is
/// wrong.
pub async fn start(plan: &Arc<RunPlan>) -> Result<Configured, Trouble> {
    let (child, control) = spawn(plan, &Confines::default())?;
    match converse(plan, &control).await {
        Ok(said) => Ok(said.with(child, control)),
        Err(unfit) => {
            unfit.kill_if_alive(&child.pidfd);
            Err(unfit.ended_by(end_of(&child).await))
        }
    }
}

/// Reaps a child that is about to end; how it ended.
async fn end_of(child: &Child) -> Exit {
    if timeout(ENDING, child.pidfd.ended()).await.is_err() {
        // It has closed its socket and lives on.
        let _ = child.pidfd.send(Signal::Kill);
        let _ = timeout(ENDING, child.pidfd.ended()).await;
    }
    process::reap(child.pid).unwrap_or(Exit::Unknown)
}

/// What a zygote is kept from before it runs anything of a project: a config file and what a venv has Python do at
/// its start are a project's own programs.
#[derive(Debug, Default)]
pub struct Confines<'a> {
    /// Who it runs as from its first instruction; `None` is the keeper's user.
    pub user: Option<&'a User>,
    /// Variables that it does not see.
    pub hidden: BTreeSet<String>,
}

/// Starts the process alone.
pub fn spawn(plan: &RunPlan, confines: &Confines<'_>) -> Result<(Child, Channel), Trouble> {
    let (ours, theirs) = fds::seqpacket_pair()?;
    let extension: OwnedFd = boot::extension()?;
    let python = &plan.written.python;
    let child = Spawn {
        name: "Python",
        program: python,
        args: vec![python.into(), "-c".into(), boot::BOOT.into()],
        env: sys::spawn::env_without(&confines.hidden),
        fds: vec![theirs.as_fd(), extension.as_fd()],
        user: confines.user,
        raise_open_files: true,
    }
    .start()
    .map_err(|error| {
        let hint = match confines.user {
            Some(user) if error.kind() == io::ErrorKind::PermissionDenied => format!(
                "the user of the apps (uid {}) must be able to run it and to enter the folders above it",
                user.uid
            ),
            _ => "--python names another one".to_owned(),
        };
        Trouble {
            exit: 2,
            text: format!("error: {error}; hint: {hint}"),
        }
    })?;
    Ok((child, Channel::new(ours)?))
}

/// What a zygote said.
#[derive(Debug)]
pub struct Said {
    python: String,
    settings: Settings,
    warnings: Vec<String>,
    master_hooks: bool,
}

impl Said {
    pub fn with(self, child: Child, control: Channel) -> Configured {
        let Self {
            python,
            settings,
            warnings,
            master_hooks,
        } = self;
        Configured {
            child,
            control,
            python,
            settings,
            warnings,
            master_hooks,
        }
    }
}

/// Asks a zygote for its version and for what its config file says.
pub async fn converse(plan: &RunPlan, control: &Channel) -> Result<Said, Unfit> {
    let hello = next(control, HELLO, "say hello").await;
    // The name comes from outside: a program that is no Python, or one that cannot start.
    let hello = hello.map_err(|mut unfit| {
        unfit.trouble.exit = 2;
        unfit.trouble.text += &format!(" ({})", plan.written.python.display());
        unfit
    });
    let python = match hello? {
        FromZygote::Hello {
            wire: ostler_wire::VERSION,
            python,
        } => python,
        FromZygote::Unsupported { text } => {
            let text = format!("error: {text}; hint: --python names another one");
            return Err(Unfit::new(2, text));
        }
        other => {
            return Err(Unfit::new(
                1,
                format!("error: the zygote began with {other:?}"),
            ));
        }
    };
    let mut configure = serde_json::to_value(&plan.configure).unwrap_or_else(|_| json!({}));
    configure["type"] = "configure".into();
    configure["names"] = config::file_names().collect();
    // Should this not arrive, the answer does not either, and that is where it is told.
    let _ = control.send_json(&configure, &[]).await;
    match next(control, CONFIGURE, "evaluate its config file").await? {
        FromZygote::Configured {
            settings,
            hooks,
            unknown,
            master_hooks,
        } => {
            let (settings, mut warnings) = finish(plan, &settings, &unknown)?;
            warnings.extend(newer_than_tested(&python));
            warnings.extend(config::hook_warnings(&hooks).map(|warning| warning.to_string()));
            Ok(Said {
                python,
                settings,
                warnings,
                master_hooks,
            })
        }
        FromZygote::Failed { exit, text } => Err(Unfit::new(exit, text)),
        other => Err(Unfit::new(
            1,
            format!("error: the zygote said {other:?} to its settings"),
        )),
    }
}

fn finish(
    plan: &RunPlan,
    file: &Map<String, Value>,
    unknown: &[String],
) -> Result<(Settings, Vec<String>), Unfit> {
    match config::finish(&plan.written, file, unknown) {
        Ok((settings, warnings)) => {
            Ok((settings, warnings.iter().map(ToString::to_string).collect()))
        }
        Err(errors) => {
            let lines: Vec<_> = errors
                .iter()
                .map(|error| format!("error: {error}"))
                .collect();
            Err(Unfit::new(2, lines.join("\n")))
        }
    }
}

/// The newest Python that the tests run on: 3.this.
const NEWEST_TESTED: u32 = 13;

fn newer_than_tested(version: &str) -> Option<String> {
    let minor: u32 = version.split('.').nth(1)?.parse().ok()?;
    (minor > NEWEST_TESTED).then(|| {
        format!("Python {version} is newer than the ones ostler was tested with (up to 3.{NEWEST_TESTED})")
    })
}

async fn next(control: &Channel, limit: Duration, what: &str) -> Result<FromZygote, Unfit> {
    match timeout(limit, control.recv()).await {
        Ok(Ok(Some(message))) => {
            decode(&message.bytes).map_err(|error| Unfit::new(1, format!("error: {error}")))
        }
        Ok(Ok(None)) => {
            let text = format!("error: Python ended before it could {what}");
            Err(Unfit {
                ended: Some("run it by hand to see why, or name another one with --python"),
                ..Unfit::new(1, text)
            })
        }
        Ok(Err(error)) => Err(Unfit::new(
            1,
            format!("error: the zygote cannot be heard: {error}"),
        )),
        Err(_elapsed) => {
            let text = format!("error: Python did not {what} within {} s", limit.as_secs());
            Err(Unfit::new(1, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_python_beyond_the_tested_ones_is_warned_about() {
        assert_eq!(newer_than_tested("3.9.18"), None);
        assert_eq!(newer_than_tested("3.13.0"), None);
        let warning = newer_than_tested("3.15.0a1").expect("a warning");
        assert!(warning.starts_with("Python 3.15.0a1 is newer"), "{warning}");
    }
}
