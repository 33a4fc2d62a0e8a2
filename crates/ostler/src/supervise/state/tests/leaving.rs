//! How a single worker goes.

use super::*;

// Recycling

#[test]
fn a_worker_that_has_served_its_share_is_replaced_first() {
    let mut scene = Scene::serving(policy(2));
    let actions = scene.on(Event::Recycle {
        worker: w(1),
        why: "served 100 requests".to_owned(),
    });
    assert_eq!(actions, ["fork 1/3"]);
    assert_eq!(
        scene.phases(),
        [(1, "leaving"), (2, "ready"), (3, "booting")]
    );
    assert_eq!(
        scene.on(Event::Ready { worker: w(3) }),
        ["admit 3", "drain 1"]
    );
    assert_eq!(scene.exit(1, OK), ["gone 1 exit 0"]);
    assert_eq!(scene.said("worker 1 is replaced: served 100 requests"), 1);
}

#[test]
fn never_two_are_recycled_at_once() {
    let mut scene = Scene::serving(policy(3));
    let recycle = |id| Event::Recycle {
        worker: w(id),
        why: "served".to_owned(),
    };
    assert_eq!(scene.on(recycle(1)), ["fork 1/4"]);
    assert_eq!(scene.on(recycle(2)), [""; 0]);
    assert_eq!(scene.on(recycle(2)), [""; 0], "asked twice, queued once");
    assert_eq!(scene.on(recycle(3)), [""; 0]);
    assert_eq!(
        scene.on(Event::Ready { worker: w(4) }),
        ["admit 4", "drain 1"]
    );
    assert_eq!(
        scene.exit(2, SEGV)[0],
        "gone 2 SIGSEGV",
        "one that waits may die meanwhile"
    );
    assert_eq!(scene.next(secs(1)), ["fork 1/5"]);
    scene.on(Event::Ready { worker: w(5) });
    assert_eq!(
        scene.exit(1, OK),
        ["gone 1 exit 0", "fork 1/6"],
        "and now worker 3"
    );
    assert_eq!(
        scene.on(Event::Ready { worker: w(6) }),
        ["admit 6", "drain 3"]
    );
}

#[test]
fn a_leaving_worker_serves_until_a_replacement_works() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Recycle {
        worker: w(1),
        why: "served".to_owned(),
    });
    for id in 2..=7 {
        let failed = Event::BootFailed {
            worker: w(id),
            exit: 3,
            text: "no database".to_owned(),
        };
        scene.on(failed);
        scene.exit(id, Exit::Code(3));
        assert_eq!(scene.fleet.pool_state(scene.now), PoolState::Serving);
        scene.next(secs(30));
    }
    assert_eq!(
        scene.on(Event::Ready { worker: w(8) }),
        ["admit 8", "drain 1"]
    );
}

#[test]
fn too_much_memory_kills_but_never_two_at_once() {
    let mut scene = Scene::serving(policy(2));
    let excess = |id| Event::Excess {
        worker: w(id),
        why: "it uses 900 MiB".to_owned(),
    };
    assert_eq!(scene.on(excess(1)), ["drain 1", "kill 1", "fork 1/3"]);
    assert_eq!(scene.on(excess(2)), [""; 0]);
    assert_eq!(scene.on(excess(1)), [""; 0]);
    assert_eq!(
        scene.exit(1, KILL),
        [
            "gone 1 SIGKILL",
            "drain 2",
            "kill 2",
            "fork 1/4",
            "pool Starting"
        ]
    );
    assert_eq!(scene.said("ended unexpectedly"), 0, "it was our own doing");
    assert_eq!(scene.said("worker 2 is killed: it uses 900 MiB"), 1);
}

#[test]
fn too_much_memory_does_not_wait_for_one_that_leaves_anyway() {
    let mut scene = Scene::serving(policy(2));
    scene.on(Event::Recycle {
        worker: w(1),
        why: "served".to_owned(),
    });
    let excess = |id| Event::Excess {
        worker: w(id),
        why: "memory".to_owned(),
    };
    assert_eq!(scene.on(excess(1)), ["drain 1", "kill 1"]);
    assert_eq!(scene.on(excess(1)), [""; 0]);
}

#[test]
fn a_worker_that_lost_a_slot_is_replaced_without_a_turn() {
    let mut scene = Scene::serving(policy(2));
    let replace = |id| Event::Replace {
        worker: w(id),
        why: "a slot was given up".to_owned(),
    };
    assert_eq!(scene.on(replace(1)), ["takenomore 1", "fork 1/3"]);
    assert_eq!(scene.on(replace(2)), ["takenomore 2", "fork 1/4"]);
    assert_eq!(scene.on(Event::Ready { worker: w(3) }), ["admit 3"]);
    assert_eq!(
        scene.on(Event::Ready { worker: w(4) }),
        ["admit 4", "drain 1", "drain 2"]
    );
}

// Timeouts and drains

#[test]
fn a_hung_worker_is_replaced_then_asked_then_aborted_then_killed() {
    let mut scene = Scene::serving(policy(1));
    let actions = scene.on(Event::TimedOut { worker: w(1) });
    assert_eq!(actions, ["dump 1", "fork 1/2", "drain 1", "pool Starting"]);
    assert_eq!(scene.pass(29), [""; 0], "its other requests may end");
    assert_eq!(scene.next(secs(1)), ["abort 1"]);
    assert_eq!(scene.next(secs(2)), ["kill 1"]);
    assert_eq!(scene.exit(1, KILL), ["gone 1 SIGKILL"]);
    assert_eq!(scene.booting(), [w(2)], "one replacement, no more");
}

#[test]
fn a_hung_worker_without_other_requests_is_not_waited_for() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::TimedOut { worker: w(1) });
    scene.on(Event::Drained { worker: w(1) });
    assert_eq!(scene.next(secs(5)), ["abort 1"]);
}

#[test]
fn each_further_timeout_of_a_worker_is_a_dump_and_nothing_else() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::TimedOut { worker: w(1) });
    assert_eq!(scene.on(Event::TimedOut { worker: w(1) }), ["dump 1"]);
}

#[test]
fn hung_workers_do_not_pile_up() {
    let mut scene = Scene::serving(policy(2));
    let mut most = 0;
    for _ in 0..20 {
        scene.all_ready();
        let ready = scene
            .fleet
            .ids(|worker| matches!(worker.phase, Phase::Ready { .. }));
        for worker in ready {
            scene.on(Event::TimedOut { worker });
        }
        most = most.max(scene.fleet.workers.len());
        scene.pass(1);
        let ending = |worker: &Worker| {
            matches!(
                worker.phase,
                Phase::Draining {
                    then: Then::Kill,
                    ..
                }
            )
        };
        for worker in scene.fleet.ids(ending) {
            scene.exit(worker.0, KILL);
        }
    }
    assert!(most <= 5, "{most} processes for two workers");
    assert!(scene.said("too many workers are draining") > 0);
}

#[test]
fn a_drained_worker_has_time_for_its_exit_handlers() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Reload);
    scene.boot(2, policy(1));
    assert_eq!(scene.pass(29), [""; 0]);
    scene.on(Event::Drained { worker: w(1) });
    assert_eq!(
        scene.pass(4),
        [""; 0],
        "past the 30 s, for the sake of atexit"
    );
    assert_eq!(scene.next(secs(1)), ["abort 1"]);
}

#[test]
fn a_frozen_worker_is_killed_again_until_it_is_gone() {
    let mut scene = Scene::serving(policy(1));
    scene.on(stop(30));
    scene.pass(30);
    for _ in 0..5 {
        assert_eq!(scene.next(secs(2)), ["kill 1"]);
    }
    assert_eq!(scene.exit(1, KILL), ["gone 1 SIGKILL", "finish 0"]);
}
