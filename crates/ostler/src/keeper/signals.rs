//! The signals the keeper listens to, and what each means.

use std::io;
use std::task::{Context, Poll, Waker};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A child has ended.
    Reap,
    /// TERM.
    Stop,
    /// INT: Ctrl-C.
    Interrupt,
    /// QUIT.
    Quit,
    /// HUP.
    Reload,
    /// USR1.
    ReopenLogs,
    /// TTIN and TTOU.
    Workers { by: i32 },
    /// USR2, with which gunicorn executes itself anew.
    Upgrade,
}

impl Order {
    /// The end of everything is asked for.
    pub fn stops(self) -> bool {
        matches!(self, Self::Stop | Self::Interrupt | Self::Quit)
    }
}

/// All of them, from the moment this is made.
pub struct Signals {
    streams: Vec<(Order, Signal)>,
}

impl Signals {
    /// Takes the signals; must be called inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let kinds = [
            // Stopping first: it is not to wait behind a storm of the others.
            (Order::Stop, SignalKind::terminate()),
            (Order::Interrupt, SignalKind::interrupt()),
            (Order::Quit, SignalKind::quit()),
            (Order::Reap, SignalKind::child()),
            (Order::Reload, SignalKind::hangup()),
            (Order::ReopenLogs, SignalKind::user_defined1()),
            (Order::Upgrade, SignalKind::user_defined2()),
            (
                Order::Workers { by: 1 },
                SignalKind::from_raw(libc::SIGTTIN),
            ),
            (
                Order::Workers { by: -1 },
                SignalKind::from_raw(libc::SIGTTOU),
            ),
        ];
        let streams = kinds
            .into_iter()
            .map(|(order, kind)| Ok((order, signal(kind)?)));
        Ok(Self {
            streams: streams.collect::<io::Result<_>>()?,
        })
    }

    /// The next signal. Several of one kind count once, as the kernel has it.
    pub async fn next(&mut self) -> Order {
        std::future::poll_fn(|cx| {
            for (order, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(*order);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// A signal that is there already.
    pub fn now(&mut self) -> Option<Order> {
        let mut cx = Context::from_waker(Waker::noop());
        for (order, stream) in &mut self.streams {
            if stream.poll_recv(&mut cx).is_ready() {
                return Some(*order);
            }
        }
        None
    }

    /// Does something unless it is interrupted by TERM, INT or QUIT: then `None`. Other signals
    /// have nothing to say meanwhile.
    pub async fn unless_stopped<T>(&mut self, doing: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(doing);
        loop {
            tokio::select! {
                done = &mut doing => return Some(done),
                order = self.next() => {
                    if order.stops() {
                        return None;
                    }
                }
            }
        }
    }
}
