//! The pool with real sockets and a supervisor that only listens: who gets a slot while workers come
//! and go.

mod backlog;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use serde_json::Value;

use super::*;
use crate::supervise::{Hooks, Plan, Policy, Supervisor};
use crate::sys::fds;

const WORKER: WorkerId = WorkerId(1);

/// A pool of one edge thread, which is the test's own.
struct Scene {
    pool: Arc<Pool>,
    supervisor: Supervisor,
}

/// The worker's end of a slot or channel.
struct End(UnixStream);

impl End {
    /// Resolves when the server has closed the socket; what it sent before is skipped.
    async fn closed(self) {
        let end = tokio::task::spawn_blocking(move || {
            let mut end = self.0;
            end.set_read_timeout(Some(Duration::from_secs(10)))?;
            end.read_to_end(&mut Vec::new())
        });
        end.await.expect("no panic").expect("closed within 10 s");
    }
}

fn pair() -> (OwnedFd, End) {
    let (ours, theirs) = fds::stream_pair().expect("a pair");
    fds::set_nonblocking(&ours).expect("a flag");
    (ours, End(theirs.into()))
}

impl Scene {
    fn new(limits: Limits) -> Self {
        let plan = Plan {
            policy: Policy {
                workers: 1,
                graceful: Duration::from_secs(30),
                stop_first: false,
            },
            load: Value::Null,
            threads: 1,
            edge_threads: 1,
            memory_soft: None,
            memory_hard: None,
        };
        let (requests, _asked) = mpsc::unbounded_channel();
        let (supervisor, handle, _slots) =
            Supervisor::new(String::new(), plan, Hooks::new(None), requests, false);
        let pool = Pool::new(limits, handle, vec![Handle::current()]);
        Self { pool, supervisor }
    }

    /// Brings a worker with one slot or channel.
    fn ready(&self, interface: Interface) -> End {
        self.worker_is_ready(WORKER, interface, None)
    }

    fn worker_is_ready(
        &self,
        worker: WorkerId,
        interface: Interface,
        backlog: Option<&Arc<Backlog>>,
    ) -> End {
        let (socket, end) = pair();
        self.pool.apply(SlotEvent::WorkerReady {
            worker,
            generation: 1,
            pid: 1,
            interface,
            sockets: vec![socket],
            backlog: backlog.cloned(),
        });
        end
    }

    fn drain(&self) {
        self.drain_within(Duration::from_secs(30));
    }

    fn drain_within(&self, within: Duration) {
        let worker = WORKER;
        self.pool.apply(SlotEvent::Draining { worker, within });
    }

    /// How often the worker was reported as drained since this was asked last.
    fn drained(&mut self) -> usize {
        let told = self.supervisor.overheard();
        let drained = told.iter().filter(|told| told.contains("Drained"));
        drained.count()
    }

    fn has_free_slot(&self) -> bool {
        self.pool.state().free.iter().flatten().next().is_some()
    }
}

#[tokio::test]
async fn slot_that_comes_back_after_its_worker_began_to_drain_is_closed() {
    let mut scene = Scene::new(Limits::default());
    let _first = scene.ready(Interface::Wsgi);
    scene.drain();
    assert_eq!(scene.drained(), 1);
    let (socket, end) = pair();
    let worker = Arc::clone(&scene.pool.state().workers[&WORKER]);
    // As one does that looked at the worker a moment earlier.
    scene.pool.offer(Slot::new(worker, socket));
    assert!(!scene.has_free_slot());
    end.closed().await;
}

#[tokio::test]
async fn slot_of_a_request_that_left_the_line_is_closed_when_its_worker_drains() {
    let mut scene = Scene::new(Limits::default());
    let pool = Arc::clone(&scene.pool);
    let mut waits = Box::pin(pool.lease(0, Asks::default(), Session::None));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(waits.as_mut().poll(&mut cx), Poll::Pending));
    // The slot goes to the request in line, which does not look any more.
    let end = scene.ready(Interface::Wsgi);
    scene.drain();
    assert_eq!(scene.drained(), 0, "a request holds its slot");
    drop(waits);
    assert!(!scene.has_free_slot());
    assert_eq!(scene.drained(), 1);
    end.closed().await;
}

#[tokio::test]
async fn channel_that_is_connected_after_its_worker_began_to_drain_is_closed() {
    let scene = Scene::new(Limits::default());
    let end = scene.ready(Interface::Asgi);
    // Before the edge thread has come to registering the channel.
    scene.drain();
    end.closed().await;
    assert!(scene.pool.state().channels[0].is_empty());
    let mut waits = pin!(scene.pool.lease(0, Asks::default(), Session::None));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(waits.as_mut().poll(&mut cx), Poll::Pending));
}

#[tokio::test]
async fn drained_is_reported_when_the_last_request_ends() {
    let mut scene = Scene::new(Limits::default());
    let end = scene.ready(Interface::Wsgi);
    let lease = scene.pool.lease(0, Asks::default(), Session::None).await;
    scene.drain();
    assert_eq!(scene.drained(), 0);
    let (lease, _) = lease.expect("the free slot");
    lease.give_back();
    assert_eq!(scene.drained(), 1);
    assert!(!scene.has_free_slot());
    end.closed().await;
}

#[tokio::test(start_paused = true)]
async fn worker_that_leaves_keeps_its_websockets_for_most_of_its_own_time() {
    let scene = Scene::new(Limits::default());
    let _end = scene.ready(Interface::Asgi);
    let lease = scene.pool.lease(0, Asks::default(), Session::None).await;
    let (lease, _) = lease.expect("the channel that is connected meanwhile");
    let began = tokio::time::Instant::now();
    scene.drain_within(Duration::from_secs(100));
    lease.worker().farewell().await;
    assert_eq!(began.elapsed().as_secs(), 75);
}

#[tokio::test]
async fn limits_of_a_reload_hold_for_who_comes_then() {
    let mut scene = Scene::new(Limits::default());
    let _end = scene.ready(Interface::Wsgi);
    scene.pool.set_limits(Limits {
        line_length: 0,
        max_requests: 1,
        ..Limits::default()
    });
    let lease = scene.pool.lease(0, Asks::default(), Session::None).await;
    let second = scene.pool.lease(0, Asks::default(), Session::None).await;
    assert_eq!(second.err(), Some(Refused::LineFull));
    let (lease, _) = lease.expect("the free slot");
    lease.give_back();
    let told = scene.supervisor.overheard();
    assert!(told.iter().any(|told| told.contains("Recycle")), "{told:?}");
}
