//! Following one process: what it says on its socket, in order, and then how it ended.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::WorkerId;
use crate::sys::{Channel, Exit, Message, Pidfd};

/// After a worker's handle says that it has ended, its zygote has this long to say how. Requests
/// that it held wait for that word before they are tried again.
const EXIT_WORD: Duration = Duration::from_secs(2);

/// News of one process that may wait: a handle, an orphaning, an exit.
const NEWS: usize = 4;

/// Something a process said, or its end.
#[derive(Debug)]
pub(super) enum Said {
    Zygote(u64, Message),
    ZygoteEnded(u64, Exit),
    Worker(WorkerId, Message),
    Ended(WorkerId, Exit),
}

/// What others know of a process, for the task that follows it.
#[derive(Debug)]
pub(super) enum News {
    Handle(Pidfd),
    /// Its parent has reaped it.
    Exit(Exit),
    /// Its zygote is gone and will say nothing.
    Orphan,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    task: JoinHandle<()>,
    news: mpsc::Sender<News>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Passes on what a zygote says, and after its last word how it ended, as the keeper tells.
    pub fn of_zygote(generation: u64, channel: Arc<Channel>, said: mpsc::Sender<Said>) -> Self {
        let (news, of_it) = mpsc::channel(NEWS);
        let task = tokio::spawn(follow_zygote(generation, channel, of_it, said));
        Self { task, news }
    }

    /// Passes on what a worker says, and after its last word how it ended.
    pub fn of_worker(id: WorkerId, channel: Arc<Channel>, said: mpsc::Sender<Said>) -> Self {
        let (news, of_it) = mpsc::channel(NEWS);
        let task = tokio::spawn(follow(id, channel, of_it, said));
        Self { task, news }
    }

    pub fn tell(&self, news: News) {
        // Full or closed, the process has had its end already.
        let _ = self.news.try_send(news);
    }
}

async fn follow_zygote(
    generation: u64,
    channel: Arc<Channel>,
    mut news: mpsc::Receiver<News>,
    said: mpsc::Sender<Said>,
) {
    let mut open = true;
    let exit = loop {
        tokio::select! {
            message = channel.recv(), if open => match message {
                Ok(Some(message)) => drop(said.send(Said::Zygote(generation, message)).await),
                Ok(None) | Err(_) => open = false,
            },
            told = news.recv() => match told {
                Some(News::Exit(exit)) => break exit,
                Some(News::Handle(_) | News::Orphan) => {}
                None => return,
            },
        }
    };
    while open && let Ok(Some(message)) = channel.try_recv() {
        drop(said.send(Said::Zygote(generation, message)).await);
    }
    drop(said.send(Said::ZygoteEnded(generation, exit)).await);
}

async fn follow(
    id: WorkerId,
    channel: Arc<Channel>,
    mut news: mpsc::Receiver<News>,
    said: mpsc::Sender<Said>,
) {
    let mut open = true;
    let mut pidfd = None;
    let mut orphan = false;
    let exit = loop {
        tokio::select! {
            message = channel.recv(), if open => match message {
                Ok(Some(message)) => drop(said.send(Said::Worker(id, message)).await),
                // A closed socket is a hint at most: death is what the kernel says.
                Ok(None) | Err(_) => open = false,
            },
            told = news.recv() => match told {
                Some(News::Handle(handle)) => pidfd = Some(handle),
                Some(News::Exit(exit)) => break exit,
                // Not forked yet, or nobody has heard of it: it ends with its zygote, and no
                // handle will come.
                Some(News::Orphan) if pidfd.is_none() => break Exit::Unknown,
                Some(News::Orphan) => orphan = true,
                None => return,
            },
            () = ended(pidfd.as_ref()) => break word(&mut news, orphan).await,
        }
    };
    // What it said before it ended comes before its end, though it came by another socket.
    while open && let Ok(Some(message)) = channel.try_recv() {
        drop(said.send(Said::Worker(id, message)).await);
    }
    drop(said.send(Said::Ended(id, exit)).await);
}

async fn ended(pidfd: Option<&Pidfd>) {
    match pidfd {
        Some(pidfd) if pidfd.ended().await.is_ok() => {}
        // Without a handle there is the zygote's word alone.
        Some(_) | None => std::future::pending().await,
    }
}

/// The zygote's word on how its worker ended.
async fn word(news: &mut mpsc::Receiver<News>, orphan: bool) -> Exit {
    if orphan {
        return Exit::Unknown;
    }
    let exit = async {
        while let Some(told) = news.recv().await {
            match told {
                News::Exit(exit) => return exit,
                News::Orphan => return Exit::Unknown,
                News::Handle(_) => {}
            }
        }
        Exit::Unknown
    };
    timeout(EXIT_WORD, exit).await.unwrap_or(Exit::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fds;

    #[tokio::test]
    async fn a_worker_that_is_not_forked_yet_ends_with_its_zygote() {
        let (ours, _theirs) = fds::seqpacket_pair().expect("a pair");
        let channel = Arc::new(Channel::new(ours).expect("a channel"));
        let (said, mut heard) = mpsc::channel(4);
        let follower = Follower::of_worker(WorkerId(7), channel, said);
        follower.tell(News::Orphan);
        let end = timeout(Duration::from_secs(10), heard.recv()).await;
        let end = end.expect("in time");
        assert!(matches!(end, Some(Said::Ended(WorkerId(7), Exit::Unknown))));
    }
}
