//! What keeps this machine from serving as its configuration says: looked at from outside, and changed nowhere. Each
//! look gives a line: that it is good, or what was seen and what to do.

mod files;
mod machine;
mod names;
mod ports;

use std::path::PathBuf;

use serde::Serialize;

use crate::admin::api::{NameLook, Status};
use crate::config::Settings;
use crate::config::serve::Serve;

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    Ok,
    /// It works, or may; somebody should look.
    Warning,
    /// Something that is configured cannot be.
    Problem,
}

/// One line.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub grade: Grade,
    /// What was looked at, in one word: `clock`, `port`.
    pub about: &'static str,
    /// What was seen; behind `hint:` what to do.
    pub text: String,
}

/// What is known before anything is looked at.
pub struct Case {
    pub serve: Serve,
    /// What the running server says; `None`: it does not run, or why it does not answer.
    pub running: Result<Status, String>,
    /// What it saw of the names; nothing when it does not run.
    pub looks: Option<Vec<NameLook>>,
    /// Our folder of certificates.
    pub certificates: PathBuf,
    /// Settings of each project before its config file is evaluated, or why there are none.
    pub projects: Vec<(String, Result<Settings, String>)>,
}

/// Looks at everything.
pub async fn examine(case: &Case) -> Vec<Finding> {
    let mut found = Vec::new();
    found.push(match &case.running {
        Ok(status) => ok("server", format!("it runs: keeper {}", status.keeper)),
        Err(why) => warning("server", why.clone()),
    });
    machine::look(case, &mut found);
    ports::look(case, &mut found);
    files::look(case, &mut found);
    names::look(case, &mut found).await;
    found
}

fn ok(about: &'static str, text: impl Into<String>) -> Finding {
    finding(Grade::Ok, about, text)
}

fn warning(about: &'static str, text: impl Into<String>) -> Finding {
    finding(Grade::Warning, about, text)
}

fn problem(about: &'static str, text: impl Into<String>) -> Finding {
    finding(Grade::Problem, about, text)
}

fn finding(grade: Grade, about: &'static str, text: impl Into<String>) -> Finding {
    Finding {
        grade,
        about,
        text: text.into(),
    }
}
