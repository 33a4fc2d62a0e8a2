//! Taking the place of another program in this process: from what it left, to the end of everything.

use std::io;

use crate::sys;

use super::heritage::Inheritance;
use super::servers::{Server, Servers};
use super::signals::Signals;
use super::start::{self, Prepared, Sockets};
use super::upgrade::{Own, WayBack};
use super::zygotes::Trouble;
use super::{Ended, Keeper, Plan, read_files, runtime};

/// Goes on where another program was in this process.
pub(super) fn succeed<F: Future<Output = Ended>>(
    how: impl FnOnce(Inheritance, Signals) -> F,
    inheritance: Inheritance,
) -> Ended {
    runtime()?.block_on(async {
        let signals = Signals::new()?;
        // They were blocked before this program was executed, so none is lost.
        sys::signal::unblock_all();
        how(inheritance, signals).await
    })
}

/// In the place of the program before, or it gets the process back.
pub(super) async fn succeed_with(
    mut plan: Plan,
    inheritance: Inheritance,
    mut signals: Signals,
) -> Ended {
    let mut begin = async || -> Result<_, Trouble> {
        let files = read_files(&mut plan)?;
        let mut sockets = Sockets::of(&inheritance)?;
        let prepared = match start::prepare(&plan, &mut sockets).await? {
            start::Outcome::Prepared(prepared) => *prepared,
            start::Outcome::Done(_) => {
                return Err(io::Error::other("stopped while it started").into());
            }
        };
        let (mut keeper, zygote) = Keeper::new(plan.clone(), files, prepared)?;
        let servers = keeper.inherit(&inheritance)?;
        keeper.number_projects();
        Ok((keeper, zygote, servers, sockets))
    };
    let (mut keeper, zygote, mut servers, sockets) = match begin().await {
        Ok(begun) => begun,
        Err(trouble) => {
            let error = inheritance.give_back(trouble.text, |_| true);
            return Err(error.into());
        }
    };
    keeper.way_back = Some(WayBack::new(inheritance, sockets.left_over()));
    match keeper.next_server(zygote, &mut signals).await {
        Ok(Some(coming)) => servers.coming = Some(coming),
        Ok(None) => keeper.begin_stop(true, &mut servers).await,
        Err(trouble) => keeper.go_back(trouble.text, &mut servers).await,
    }
    keeper.keep_and_end(servers, None, signals).await
}

/// As before.
pub(super) async fn go_on(inheritance: Inheritance, signals: Signals) -> Ended {
    let own: Own = serde_json::from_value(inheritance.said.own.clone()).map_err(io::Error::from)?;
    let mut plan = own.plan;
    // As they were read is what is served; what has changed meanwhile is seen at the first look.
    let mut files = read_files(&mut plan.clone()).unwrap_or_default();
    files.look_again();
    if let Plan::Serve(plan) = &mut plan {
        plan.warnings.clear();
    }
    let mut sockets = Sockets::of(&inheritance)?;
    let prepared = Prepared {
        machine: own.machine,
        zygote: None,
        user: own.user,
        listening: std::mem::take(&mut sockets.listening),
        admin: sockets.admin.take(),
        metrics: std::mem::take(&mut sockets.metrics),
        requests: own.requests,
    };
    let (mut keeper, _) = Keeper::new(plan, files, prepared)?;
    keeper.started = own.started;
    let servers = keeper.inherit(&inheritance)?;
    keeper.serving = keeper.numbers_of(&inheritance.said.serving);
    keeper.tell_failed(&inheritance, &servers).await;
    // With it the sockets are let go that a stop has to close.
    drop(inheritance);
    keeper.keep_and_end(servers, None, signals).await
}

impl Keeper {
    /// Takes over what runs.
    fn inherit(&mut self, inheritance: &Inheritance) -> io::Result<Servers> {
        let said = &inheritance.said;
        let mut servers = Servers::default();
        for left in &said.servers {
            let server = Server::inherited(left, inheritance)?;
            match left.current {
                true => servers.current = Some(server),
                false => servers.leaving.push(server),
            }
        }
        for left in &said.zygotes {
            let child = inheritance.child(left.pid, left.pidfd)?;
            self.zygotes.inherit(left, child);
        }
        self.zygotes.with_hooks = said.with_hooks;
        self.last_project = said.last_project;
        self.marks = said.marks.unwrap_or(self.marks);
        self.program.clone_from(&said.program);
        self.ever_ready = true;
        Ok(servers)
    }
}
