//! Who waits for the outcome of a reload, and what has come of it so far. Starts and asks nothing.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::admin::api::{Change, Outcome, Reloaded};
use crate::keeper::protocol::ProjectId;

/// Reloads that were asked for and have no outcome yet.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    last: u64,
    /// The keeper reads the files for these.
    asked: HashMap<u64, Asked>,
    /// New workers are starting for these.
    waiting: Vec<Waiting>,
}

/// Somebody who has asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// Wants to know what has come up, not only what was taken.
    pub(super) wait: bool,
    pub(super) answer: oneshot::Sender<Reloaded>,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Reloaded>,
    outcome: Reloaded,
    awaited: Vec<Awaited>,
}

/// New workers of one project.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) project: ProjectId,
    pub(super) name: String,
    pub(super) since: Since,
    /// What went wrong meanwhile.
    pub(super) troubles: Vec<String>,
}

/// Which generation is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// The one that the supervisor names when it has heard of its reload with this number.
    Reload(u64),
    /// This one, or one after it.
    Generation(u64),
}

/// Troubles that are kept of one project while it starts: its workers may all say the same.
const MOST_TROUBLES: usize = 3;

impl Reloads {
    /// Remembers who asked; gives the ticket under which the keeper answers.
    pub(super) fn ask(&mut self, asked: Asked) -> u64 {
        self.last += 1;
        // Who has left waits for nothing.
        self.asked.retain(|_, asked| !asked.answer.is_closed());
        self.asked.insert(self.last, asked);
        self.last
    }

    /// The keeper has answered for this ticket; who it was.
    pub(super) fn answered(&mut self, ticket: u64) -> Option<Asked> {
        self.asked.remove(&ticket)
    }

    /// What was asked for is in force; it is complete when all that is `awaited` serves.
    pub(super) fn begun(
        &mut self,
        asked: Asked,
        changes: Vec<Change>,
        warnings: Vec<String>,
        awaited: Vec<Awaited>,
    ) {
        let outcome = match awaited.is_empty() {
            true => Outcome::Done,
            false => Outcome::Begun,
        };
        let outcome = Reloaded {
            outcome,
            upgraded: false,
            changes,
            warnings,
            problems: String::new(),
        };
        let Asked { wait, answer } = asked;
        if !wait || awaited.is_empty() {
            // Who has asked may have left.
            let _ = answer.send(outcome);
            return;
        }
        self.waiting.push(Waiting {
            answer,
            outcome,
            awaited,
        });
    }

    /// The supervisor has heard of its reload number `reload`: this generation is to serve.
    pub(super) fn named(&mut self, project: ProjectId, reload: u64, generation: u64) {
        for awaited in self.of(project) {
            if awaited.since == Since::Reload(reload) {
                awaited.since = Since::Generation(generation);
            }
        }
    }

    pub(super) fn trouble(&mut self, project: ProjectId, text: &str) {
        for awaited in self.of(project) {
            if awaited.troubles.len() < MOST_TROUBLES {
                awaited.troubles.push(text.trim_end().to_owned());
            }
        }
    }

    /// A generation serves: those before it are not waited for any more.
    pub(super) fn serves(&mut self, project: ProjectId, generation: u64) {
        let comes = |since| matches!(since, Since::Generation(wanted) if wanted <= generation);
        self.settle(project, comes, None);
    }

    /// A generation does not come, and none for it.
    pub(super) fn gave_up(&mut self, project: ProjectId, generation: u64, why: &str) {
        let same = |since| since == Since::Generation(generation);
        self.settle(project, same, Some(why));
    }

    /// A project has ended, or everything does.
    pub(super) fn ended(&mut self, project: ProjectId) {
        self.settle(project, |_| true, Some("it was ended meanwhile"));
    }

    fn of(&mut self, project: ProjectId) -> impl Iterator<Item = &mut Awaited> {
        let all = self
            .waiting
            .iter_mut()
            .flat_map(|waiting| &mut waiting.awaited);
        all.filter(move |awaited| awaited.project == project)
    }

    /// Takes what is settled off the lists, and answers those who wait for nothing more.
    fn settle(
        &mut self,
        project: ProjectId,
        settled: impl Fn(Since) -> bool,
        failed: Option<&str>,
    ) {
        for waiting in &mut self.waiting {
            let ours = |awaited: &mut Awaited| awaited.project == project && settled(awaited.since);
            for done in waiting.awaited.extract_if(.., ours) {
                if let Some(why) = failed {
                    waiting.outcome.fail(&done, why);
                }
            }
        }
        let complete =
            |waiting: &mut Waiting| waiting.awaited.is_empty() || waiting.answer.is_closed();
        for Waiting {
            answer,
            mut outcome,
            ..
        } in self.waiting.extract_if(.., complete)
        {
            if outcome.outcome == Outcome::Begun {
                outcome.outcome = Outcome::Done;
            }
            // As above.
            let _ = answer.send(outcome);
        }
    }
}

impl Reloaded {
    fn fail(&mut self, project: &Awaited, why: &str) {
        self.outcome = Outcome::Failed;
        let about = match &project.name[..] {
            "" => String::new(),
            name => format!("{name}: "),
        };
        for trouble in &project.troubles {
            self.problems.push_str(&format!("{about}{trouble}\n"));
        }
        self.problems.push_str(&format!("error: {about}{why}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: ProjectId = ProjectId(1);
    const BLOG: ProjectId = ProjectId(2);

    fn awaited(project: ProjectId, since: Since) -> Awaited {
        Awaited {
            project,
            name: format!("p{}", project.0),
            since,
            troubles: Vec::new(),
        }
    }

    fn begin(reloads: &mut Reloads, awaited: Vec<Awaited>) -> oneshot::Receiver<Reloaded> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { wait: true, answer };
        let ticket = reloads.ask(asked);
        let asked = reloads.answered(ticket).expect("it was asked");
        reloads.begun(asked, Vec::new(), Vec::new(), awaited);
        answered
    }

    fn outcome(answered: &mut oneshot::Receiver<Reloaded>) -> Option<(Outcome, String)> {
        let reloaded = answered.try_recv().ok()?;
        Some((reloaded.outcome, reloaded.problems))
    }

    #[test]
    fn reload_is_done_when_all_that_it_starts_serves() {
        let mut reloads = Reloads::default();
        let all = vec![
            awaited(SHOP, Since::Reload(2)),
            awaited(BLOG, Since::Generation(1)),
        ];
        let mut answered = begin(&mut reloads, all);
        reloads.serves(SHOP, 7);
        reloads.serves(BLOG, 1);
        assert_eq!(
            outcome(&mut answered),
            None,
            "the shop has not named its generation"
        );
        reloads.named(SHOP, 1, 7);
        reloads.serves(SHOP, 7);
        assert_eq!(outcome(&mut answered), None, "that was the reload before");
        reloads.named(SHOP, 2, 8);
        reloads.gave_up(SHOP, 7, "old news");
        reloads.serves(SHOP, 9);
        assert_eq!(outcome(&mut answered), Some((Outcome::Done, String::new())));
        let mut nothing = begin(&mut reloads, Vec::new());
        assert_eq!(outcome(&mut nothing), Some((Outcome::Done, String::new())));
    }

    #[test]
    fn what_does_not_come_up_is_named_with_its_reasons() {
        let mut reloads = Reloads::default();
        let all = vec![
            awaited(SHOP, Since::Generation(2)),
            awaited(BLOG, Since::Generation(1)),
        ];
        let mut answered = begin(&mut reloads, all);
        reloads.trouble(SHOP, "Traceback\nKeyError\n");
        (0..9).for_each(|_| reloads.trouble(BLOG, "again"));
        reloads.gave_up(SHOP, 2, "it could not be loaded");
        assert_eq!(outcome(&mut answered), None, "the blog may still come");
        reloads.ended(BLOG);
        let text = "p1: Traceback\nKeyError\nerror: p1: it could not be loaded\n\
                    p2: again\np2: again\np2: again\nerror: p2: it was ended meanwhile\n";
        assert_eq!(
            outcome(&mut answered),
            Some((Outcome::Failed, text.to_owned()))
        );
        assert!(reloads.waiting.is_empty());
    }

    #[test]
    fn who_does_not_wait_or_has_left_is_forgotten() {
        let mut reloads = Reloads::default();
        let (answer, mut answered) = oneshot::channel();
        let asked = Asked {
            wait: false,
            answer,
        };
        let all = vec![awaited(SHOP, Since::Generation(2))];
        reloads.begun(asked, Vec::new(), Vec::new(), all);
        assert_eq!(
            outcome(&mut answered),
            Some((Outcome::Begun, String::new()))
        );
        drop(begin(
            &mut reloads,
            vec![awaited(SHOP, Since::Generation(2))],
        ));
        reloads.serves(BLOG, 1);
        assert!(reloads.waiting.is_empty());
        let (answer, answered) = oneshot::channel();
        reloads.ask(Asked { wait: true, answer });
        drop(answered);
        let (answer, _answered) = oneshot::channel();
        reloads.ask(Asked { wait: true, answer });
        assert_eq!(reloads.asked.len(), 1);
    }
}
