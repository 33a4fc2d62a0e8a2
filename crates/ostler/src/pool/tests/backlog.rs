//! Who serves a request that workers take by themselves. The tests are the worker: they take from the
//! real socket and say so over the slot's.

use std::future::poll_fn;
use std::io::Write;

use ostler_wire::{END, FrameHead, HEAD_LEN, Kind, begin, finish};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use super::*;

const OTHER: WorkerId = WorkerId(2);

type Leased = Result<(Lease, Vec<u8>), Refused>;
type Waits<'p> = std::pin::Pin<Box<dyn Future<Output = Leased> + 'p>>;

/// A pool whose only slot serves a request.
struct Busy {
    scene: Scene,
    backlog: Arc<Backlog>,
    end: End,
    lease: Lease,
}

impl Busy {
    async fn new() -> Self {
        let scene = Scene::new(Limits::default());
        let backlog = Arc::new(Backlog::new().expect("a pair"));
        let end = scene.worker_is_ready(WORKER, Interface::Wsgi, Some(&backlog));
        let (lease, _) = scene
            .pool
            .lease(0, asks(0), Session::None)
            .await
            .expect("free");
        Self {
            scene,
            backlog,
            end,
            lease,
        }
    }

    /// A worker takes what lies there.
    fn take(&self) -> Option<(u32, u8)> {
        taken_from(&self.backlog)
    }

    /// Moves what the worker has said to the server, up to the end of its response.
    async fn response_ends(&mut self) {
        self.end
            .0
            .write_all(&frame(Kind::RespHead, END, 0))
            .expect("the slot is open");
        last_word(&mut self.lease).await;
    }
}

async fn last_word(lease: &mut Lease) {
    poll_fn(|cx| lease.grant().poll_frame(cx))
        .await
        .expect("a frame");
    let frame = lease.grant().take().expect("a frame");
    assert!(frame.head.is_end());
}

fn frame(kind: Kind, flags: u8, stream: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    let start = begin(&mut frame, kind, flags, stream);
    finish(&mut frame, start, 0);
    frame
}

/// Request `number`, small enough for the backlog.
fn asks(number: u8) -> Asks {
    let mut frame = Vec::new();
    let start = begin(&mut frame, Kind::ReqHead, END, 0);
    frame.push(number);
    finish(&mut frame, start, 0);
    Asks {
        frame,
        bytes: 1,
        since: None,
    }
}

/// Ticket and number of the oldest request in a backlog.
fn taken_from(backlog: &Backlog) -> Option<(u32, u8)> {
    let mut packet = [0; 64];
    match recv(&backlog.receiver, &mut packet[..], RecvFlags::DONTWAIT) {
        Ok((len, _)) => {
            assert_eq!(len, HEAD_LEN + 1);
            let head = FrameHead::decode(&packet)
                .expect("a frame")
                .expect("a whole one");
            Some((head.stream, packet[HEAD_LEN]))
        }
        Err(error) => {
            assert_eq!(error, Errno::AGAIN);
            None
        }
    }
}

fn waits(pool: &Arc<Pool>, number: u8) -> Waits<'_> {
    let mut waits: Waits<'_> = Box::pin(pool.lease(0, asks(number), Session::None));
    assert!(now(&mut waits).is_none(), "request {number} waits");
    waits
}

/// What a waiting request has by now.
fn now(waits: &mut Waits<'_>) -> Option<Leased> {
    match waits.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(leased) => Some(leased),
        Poll::Pending => None,
    }
}

fn served(waits: &mut Waits<'_>) -> (Lease, Vec<u8>) {
    now(waits)
        .expect("it does not wait any more")
        .expect("a lease")
}

#[tokio::test]
async fn worker_takes_the_next_request_with_the_end_of_its_response() {
    let mut busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let (mut first, mut second) = (waits(&pool, 1), waits(&pool, 2));
    let (ticket, number) = busy.take().expect("the head of the line");
    assert_eq!(number, 1);
    busy.end
        .0
        .write_all(&frame(Kind::Taken, 0, ticket))
        .expect("open");
    busy.response_ends().await;
    busy.lease.give_back();
    let (mut lease, back) = served(&mut first);
    assert!(lease.grant().is_begun());
    assert_eq!(lease.grant().stream_id(), ticket);
    assert_eq!(back[HEAD_LEN], 1, "the frame comes back");
    assert_eq!(lease.worker().in_flight(), 1);
    // Its answer ends, and the next in line lies there already. This worker takes nothing.
    busy.end
        .0
        .write_all(&frame(Kind::RespHead, END, 0))
        .expect("open");
    last_word(&mut lease).await;
    lease.give_back();
    let (mut lease, back) = served(&mut second);
    assert!(!lease.grant().is_begun());
    assert_eq!(lease.grant().stream_id(), 0);
    assert_eq!(back, asks(2).frame, "to be sent as it was");
    assert_eq!(taken_from(&busy.backlog), None);
}

#[tokio::test]
async fn request_whose_client_left_is_not_there_to_take() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let (first, mut second) = (waits(&pool, 1), waits(&pool, 2));
    drop(first);
    let (_, number) = busy.take().expect("the next one");
    assert_eq!((number, busy.take()), (2, None));
    assert!(now(&mut second).is_none());
}

#[tokio::test]
async fn request_that_was_taken_before_its_client_left_is_waited_out() {
    let mut busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let first = waits(&pool, 1);
    let (ticket, _) = busy.take().expect("a request");
    drop(first);
    busy.end
        .0
        .write_all(&frame(Kind::Taken, 0, ticket))
        .expect("open");
    busy.response_ends().await;
    busy.lease.give_back();
    answer_is_waited_out(&busy.scene, &mut busy.end, ticket).await;
}

#[tokio::test]
async fn request_whose_client_leaves_while_it_is_handed_the_slot_is_waited_out() {
    let mut busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let first = waits(&pool, 1);
    let (ticket, _) = busy.take().expect("a request");
    busy.end
        .0
        .write_all(&frame(Kind::Taken, 0, ticket))
        .expect("open");
    busy.response_ends().await;
    busy.lease.give_back();
    drop(first);
    answer_is_waited_out(&busy.scene, &mut busy.end, ticket).await;
}

/// The worker is told that the client left, and its slot is nobody else's before the answer has ended.
async fn answer_is_waited_out(scene: &Scene, end: &mut End, ticket: u32) {
    assert!(!scene.has_free_slot());
    let slot = end.0.try_clone().expect("a descriptor");
    let cancel = tokio::task::spawn_blocking(move || {
        let mut cancel = [0; HEAD_LEN];
        (&slot).read_exact(&mut cancel).map(|()| cancel)
    });
    let cancel = cancel.await.expect("no panic").expect("a frame");
    assert_eq!(cancel[..], frame(Kind::Cancel, 0, ticket));
    let second = waits(&scene.pool, 2);
    end.0
        .write_all(&frame(Kind::RespAbort, END, 0))
        .expect("open");
    let (mut lease, _) = second.await.expect("the slot");
    assert!(!lease.grant().is_begun());
}

#[tokio::test(start_paused = true)]
async fn request_is_lost_with_the_worker_that_took_it() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let mut first = waits(&pool, 1);
    busy.take().expect("a request");
    let other = busy
        .scene
        .worker_is_ready(OTHER, Interface::Wsgi, Some(&busy.backlog));
    gone(&pool, WORKER);
    assert!(now(&mut first).is_none(), "another may have taken it");
    let first = tokio::time::timeout(2 * TAKEN_IS_SAID, first).await;
    assert_eq!(first.expect("in time").err(), Some(Refused::WorkerLost));
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn worker_has_a_moment_to_say_what_it_took_before_another_died() {
    let mut busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let _end = busy
        .scene
        .worker_is_ready(OTHER, Interface::Wsgi, Some(&busy.backlog));
    let _lease = pool.lease(0, asks(0), Session::None).await.expect("free");
    let mut first = waits(&pool, 1);
    let (ticket, _) = busy.take().expect("a request");
    busy.end
        .0
        .write_all(&frame(Kind::Taken, 0, ticket))
        .expect("open");
    busy.response_ends().await;
    gone(&pool, OTHER);
    tokio::time::sleep(Duration::from_secs(1)).await;
    busy.lease.give_back();
    let (lease, _) = served(&mut first);
    assert_eq!(lease.worker().id, WORKER);
}

#[tokio::test]
async fn request_that_nobody_took_outlives_the_workers() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let mut first = waits(&pool, 1);
    gone(&pool, WORKER);
    assert_eq!(busy.take(), None, "it is in line");
    let _other = busy
        .scene
        .worker_is_ready(OTHER, Interface::Wsgi, Some(&busy.backlog));
    let (lease, _) = served(&mut first);
    assert_eq!(lease.worker().id, OTHER);
}

fn gone(pool: &Arc<Pool>, worker: WorkerId) {
    let how = crate::sys::Exit::Signal {
        number: 9,
        core_dumped: false,
    };
    pool.apply(SlotEvent::Gone { worker, how });
}

#[tokio::test(start_paused = true)]
async fn request_is_lost_with_the_slot_it_was_taken_for() {
    let mut busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let mut first = waits(&pool, 1);
    let (ticket, _) = busy.take().expect("a request");
    busy.end
        .0
        .write_all(&frame(Kind::Taken, 0, ticket))
        .expect("open");
    busy.response_ends().await;
    drop(busy.lease);
    assert_eq!(
        now(&mut first).expect("at once").err(),
        Some(Refused::WorkerLost)
    );
}

#[tokio::test]
async fn next_generation_serves_what_the_last_one_left() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let (mut first, mut second, third) = (waits(&pool, 1), waits(&pool, 2), waits(&pool, 3));
    let next = Arc::new(Backlog::new().expect("a pair"));
    let _end = busy
        .scene
        .worker_is_ready(OTHER, Interface::Wsgi, Some(&next));
    assert_eq!(busy.take(), None, "nothing is left for the old workers");
    assert_eq!(served(&mut first).0.worker().id, OTHER);
    // The lease is gone, and its slot with it: the rest waits for the slot of the old worker.
    busy.lease.give_back();
    let (lease, _) = served(&mut second);
    assert_eq!(lease.worker().id, WORKER);
    let (_, number) = taken_from(&next).expect("the next one");
    assert_eq!(number, 3);
    drop(third);
}

#[tokio::test]
async fn app_that_is_wsgi_again_has_its_requests_taken() {
    let scene = Scene::new(Limits::default());
    let _event_loop = scene.worker_is_ready(WORKER, Interface::Asgi, None);
    assert!(scene.pool.streams());
    let backlog = Arc::new(Backlog::new().expect("a pair"));
    let _end = scene.worker_is_ready(OTHER, Interface::Wsgi, Some(&backlog));
    assert!(!scene.pool.streams(), "its requests have frames again");
}

#[tokio::test]
async fn request_for_a_certain_worker_holds_up_those_behind() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    pool.learn_session(b"sid", busy.lease.worker());
    let mut bound: Waits<'_> = Box::pin(pool.lease(0, asks(1), Session::Of(b"sid")));
    assert!(now(&mut bound).is_none());
    let _second = waits(&pool, 2);
    assert_eq!(busy.take(), None);
    busy.lease.give_back();
    served(&mut bound);
}

#[tokio::test]
async fn draining_worker_is_left_nothing_to_take() {
    let busy = Busy::new().await;
    busy.scene.drain();
    let _first = waits(&busy.scene.pool, 1);
    assert_eq!(busy.take(), None);
}

#[tokio::test]
async fn large_request_waits_for_a_slot() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let mut large = Asks::default();
    large.frame.resize(ostler_wire::BACKLOG_FRAME + 1, 0);
    let mut large: Waits<'_> = Box::pin(pool.lease(0, large, Session::None));
    assert!(now(&mut large).is_none());
    assert_eq!(busy.take(), None);
    busy.lease.give_back();
    served(&mut large);
}

#[tokio::test]
async fn backlog_holds_the_head_of_a_long_line() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let _line: Vec<_> = (0..100).map(|number| waits(&pool, number)).collect();
    let numbers: Vec<_> = std::iter::from_fn(|| busy.take().map(|(_, number)| number)).collect();
    assert_eq!(numbers, (0..32).collect::<Vec<_>>());
}

#[tokio::test]
async fn requests_that_lie_there_count_as_waiting() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    pool.set_limits(Limits {
        line_length: 1,
        ..Limits::default()
    });
    let _first = waits(&pool, 1);
    let second = pool.lease(0, asks(2), Session::None).await;
    assert_eq!(second.err(), Some(Refused::LineFull));
}

#[tokio::test]
async fn worker_that_says_what_it_cannot_have_taken_is_replaced() {
    let mut busy = Busy::new().await;
    busy.end
        .0
        .write_all(&frame(Kind::Taken, 0, 7))
        .expect("open");
    busy.response_ends().await;
    busy.lease.give_back();
    assert!(!busy.scene.has_free_slot());
    let told = busy.scene.supervisor.overheard();
    assert!(
        told.iter().any(|told| told.contains("broke the protocol")),
        "{told:?}"
    );
}

#[tokio::test]
async fn worker_that_shuts_the_backlog_down_stops_nobody() {
    let busy = Busy::new().await;
    let pool = Arc::clone(&busy.scene.pool);
    let (mut first, mut second) = (waits(&pool, 1), waits(&pool, 2));
    shutdown(&busy.backlog.receiver, Shutdown::Both).expect("a connected socket");
    let mut third = waits(&pool, 3);
    busy.lease.give_back();
    for waits in [&mut first, &mut second, &mut third] {
        served(waits).0.give_back();
    }
    assert!(busy.scene.has_free_slot());
}

#[tokio::test]
async fn worker_takes_one_request_at_a_time() {
    let mut busy = Busy::new().await;
    busy.end
        .0
        .write_all(&frame(Kind::Taken, 0, 1).repeat(2))
        .expect("open");
    let fault = poll_fn(|cx| busy.lease.grant().poll_frame(cx)).await;
    assert!(matches!(fault, Err(Fault::Taken)), "{fault:?}");
}
