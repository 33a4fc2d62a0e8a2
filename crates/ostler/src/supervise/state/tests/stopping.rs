//! How everything ends.

use super::*;

#[test]
fn a_graceful_stop_drains_and_finishes_with_zero() {
    let mut scene = Scene::serving(policy(2));
    let actions = scene.on(stop(30));
    assert_eq!(actions, ["drain 1", "drain 2", "retire 1", "pool Stopping"]);
    assert_eq!(scene.on(stop(30)), [""; 0], "once is enough");
    assert_eq!(scene.on(Event::Reload), [""; 0]);
    assert_eq!(scene.exit(2, OK), ["gone 2 exit 0"]);
    assert_eq!(scene.exit(1, SEGV), ["gone 1 SIGSEGV", "finish 0"]);
    assert_eq!(scene.said("stopping: 2 workers end, within 30 s"), 1);
    assert_eq!(scene.said("has ended: exit 0"), 1);
    assert_eq!(scene.said("all workers have ended"), 1);
}

#[test]
fn the_end_of_a_worker_may_be_told_after_that_of_its_zygote() {
    let mut scene = Scene::serving(policy(1));
    scene.on(stop(30));
    let actions = scene.on(Event::ZygoteGone {
        generation: 1,
        exit: OK,
    });
    assert_eq!(actions, [""; 0]);
    assert_eq!(scene.exit(1, OK), ["gone 1 exit 0", "finish 0"]);
    assert_eq!(scene.said("has ended: exit 0"), 1);
}

#[test]
fn what_is_left_of_the_time_of_a_stop_is_all_that_requests_get() {
    let mut scene = Scene::serving(policy(2));
    scene.on(stop(4));
    // Worker 2 has ended its last request: its exit handlers have their time.
    scene.pass(3);
    scene.on(Event::Drained { worker: w(2) });
    assert_eq!(scene.next(secs(1)), ["abort 1"]);
    assert_eq!(scene.exit(1, KILL), ["gone 1 SIGKILL"]);
    assert_eq!(scene.next(secs(4)), ["abort 2"]);
}

#[test]
fn a_worker_without_a_request_ends_in_order_though_the_time_is_over() {
    let mut scene = Scene::serving(policy(2));
    assert_eq!(
        scene.on(stop(0)),
        ["drain 1", "drain 2", "retire 1", "pool Stopping"]
    );
    scene.on(Event::Drained { worker: w(2) });
    assert_eq!(scene.next(LAST_WORD), ["abort 1"]);
    assert_eq!(scene.exit(2, OK), ["gone 2 exit 0"]);
}

#[test]
fn a_stop_shortens_the_time_of_those_that_drain_already() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Reload);
    scene.boot(2, policy(1));
    assert_eq!(scene.phases(), [(1, "draining"), (2, "ready")]);
    scene.on(stop(0));
    scene.on(Event::Drained { worker: w(2) });
    assert_eq!(scene.exit(2, OK), ["gone 2 exit 0"]);
    assert_eq!(scene.next(EXIT_GRACE), ["abort 1"]);
}

#[test]
fn a_quick_stop_lets_nobody_finish() {
    let mut scene = Scene::serving(policy(1));
    let actions = scene.on(Event::Stop { within: None });
    assert_eq!(actions, ["drain 1", "quit 1", "retire 1", "pool Stopping"]);
    assert_eq!(scene.next(secs(2)), ["kill 1"]);
}

#[test]
fn a_second_stop_may_be_quicker_than_the_first() {
    let mut scene = Scene::serving(policy(1));
    scene.on(stop(30));
    assert_eq!(scene.on(Event::Stop { within: None }), ["quit 1"]);
    assert_eq!(scene.on(Event::Stop { within: None }), [""; 0]);
    assert_eq!(scene.next(secs(2)), ["kill 1"]);
}

#[test]
fn a_stop_during_a_start_ends_what_boots() {
    let mut scene = Scene::new(policy(1));
    scene.on(Event::ZygoteStarted {
        generation: 1,
        policy: policy(1),
    });
    let actions = scene.on(stop(30));
    assert_eq!(actions, ["kill-zygote 1", "finish 0"]);
    let mut scene = Scene::new(policy(1));
    scene.on(Event::ZygoteStarted {
        generation: 1,
        policy: policy(1),
    });
    scene.on(Event::Loaded { generation: 1 });
    let actions = scene.on(stop(30));
    assert_eq!(actions, ["term 1", "retire 1", "pool Stopping"]);
    assert_eq!(scene.on(Event::Ready { worker: w(1) }), [""; 0], "too late");
    assert_eq!(scene.exit(1, OK), ["gone 1 exit 0", "finish 0"]);
}

#[test]
fn a_stop_during_a_reload_ends_both_generations() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Reload);
    scene.on(Event::ZygoteStarted {
        generation: 2,
        policy: policy(1),
    });
    scene.on(Event::Loaded { generation: 2 });
    let actions = scene.on(stop(30));
    assert_eq!(
        actions,
        [
            "kill 2",
            "kill-zygote 2",
            "drain 1",
            "retire 1",
            "pool Stopping"
        ]
    );
    scene.exit(2, KILL);
    assert_eq!(scene.exit(1, OK), ["gone 1 exit 0", "finish 0"]);
}

#[test]
fn a_stop_while_nothing_runs_is_over_at_once() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::ZygoteGone {
        generation: 1,
        exit: SEGV,
    });
    assert_eq!(scene.on(stop(30)), ["finish 0"]);
}
