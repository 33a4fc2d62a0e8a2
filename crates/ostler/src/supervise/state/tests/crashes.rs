//! What dies, and what replaces it when.

use super::*;

// Crashes

#[test]
fn a_worker_that_has_served_is_replaced_at_once() {
    let mut scene = Scene::serving(policy(2));
    for id in 1..200 {
        scene.on(Event::Served { worker: w(id) });
        let actions = scene.exit(id, KILL);
        assert_eq!(
            actions,
            [format!("gone {id} SIGKILL"), format!("fork 1/{}", id + 2)]
        );
        assert_eq!(
            scene.on(Event::Ready { worker: w(id + 2) }),
            [format!("admit {}", id + 2)]
        );
    }
    assert!(
        scene.log.len() < 210,
        "obituaries come in a burst, then one a second"
    );
    assert_eq!(scene.said("ended unexpectedly: SIGKILL"), 5);
}

#[test]
fn a_worker_that_has_been_ready_for_ten_seconds_is_replaced_at_once() {
    let mut scene = Scene::serving(policy(1));
    scene.pass(10);
    let actions = scene.exit(1, SEGV);
    assert_eq!(actions, ["gone 1 SIGSEGV", "fork 1/2", "pool Starting"]);
}

#[test]
fn a_worker_that_served_nothing_is_replaced_later_each_time() {
    let mut scene = Scene::serving(policy(1));
    let mut waits = Vec::new();
    for id in 1..=12 {
        scene.exit(id, Exit::Code(1));
        let crashed = scene.now;
        assert_eq!(scene.next(secs(30)), [format!("fork 1/{}", id + 1)]);
        waits.push((scene.now - crashed).as_millis());
        scene.on(Event::Ready { worker: w(id + 1) });
    }
    let wanted = [
        100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000,
    ];
    assert_eq!(waits, wanted);
}

#[test]
fn a_crash_loop_is_said_once_told_to_the_pool_and_over_with_the_first_answer() {
    let mut scene = Scene::serving(policy(1));
    let mut told = Vec::new();
    for id in 1..=7 {
        told.extend(scene.exit(id, Exit::Code(1)));
        told.extend(scene.next(secs(30)));
    }
    told.retain(|action| action.starts_with("pool"));
    let looping = |seconds| format!("pool CrashLooping {{ retry_after: {seconds} }}");
    assert_eq!(
        told,
        [
            "pool Starting".to_owned(),
            looping(2),
            looping(4),
            looping(7)
        ]
    );
    assert_eq!(scene.said("crash loop:"), 1);
    assert_eq!(
        scene.on(Event::Ready { worker: w(8) }),
        ["admit 8", "pool Serving"]
    );
    assert_eq!(scene.on(Event::Served { worker: w(8) }), [""; 0]);
    assert_eq!(scene.said("the crash loop is over"), 1);
    assert_eq!(scene.fleet.next_look(), None);
    scene.exit(8, Exit::Code(1));
    assert_eq!(
        scene.booting(),
        [w(9)],
        "what has served is replaced at once"
    );
}

#[test]
fn a_quiet_worker_ends_a_crash_loop_after_ten_seconds() {
    let mut scene = Scene::serving(policy(1));
    for id in 1..=6 {
        scene.exit(id, SEGV);
        scene.next(secs(30));
    }
    scene.on(Event::Ready { worker: w(7) });
    assert_eq!(scene.said("the crash loop is over"), 0);
    scene.next(secs(10));
    assert_eq!(scene.said("the crash loop is over"), 1);
    assert_eq!(scene.fleet.next_look(), None, "no endless looking");
}

#[test]
fn while_one_worker_serves_a_looping_one_costs_no_visitor_anything() {
    let mut scene = Scene::serving(policy(2));
    for id in [1, 3, 4, 5, 6, 7] {
        scene.exit(id, SEGV);
        scene.next(secs(30));
        assert_eq!(scene.fleet.pool_state(scene.now), PoolState::Serving);
    }
    assert_eq!(scene.said("crash loop:"), 1);
}

#[test]
fn a_crash_after_a_server_was_lost_is_met_with_patience() {
    let mut scene = Scene {
        fleet: Fleet::new(policy(1), true),
        ..Scene::new(policy(1))
    };
    scene.on(Event::ZygoteStarted {
        generation: 1,
        policy: policy(1),
    });
    let failed = Event::LoadFailed {
        generation: 1,
        exit: 3,
        text: "no database".to_owned(),
    };
    assert_eq!(scene.on(failed), ["kill-zygote 1"]);
    assert_eq!(scene.next(secs(1)), ["start 2"]);
    let actions = scene.boot(2, policy(1));
    assert_eq!(
        actions[1..],
        [
            "load 2",
            "switch 2",
            "fork 2/1",
            "admit 1",
            "pool Serving",
            "when-ready"
        ]
    );
}

// Zygotes

#[test]
fn a_lost_zygote_is_replaced_with_all_its_workers() {
    let mut scene = Scene::serving(policy(2));
    let actions = scene.on(Event::ZygoteGone {
        generation: 1,
        exit: KILL,
    });
    assert_eq!(
        actions,
        [
            "gone 1 unknown exit",
            "gone 2 unknown exit",
            "pool Starting"
        ]
    );
    assert_eq!(scene.next(secs(1)), ["start 2"]);
    let actions = scene.boot(2, policy(2));
    let wanted = [
        "load 2",
        "switch 2",
        "fork 2/3",
        "fork 2/4",
        "admit 3",
        "pool Serving",
        "admit 4",
    ];
    assert_eq!(actions, wanted);
    assert_eq!(
        scene.exit(1, KILL),
        [""; 0],
        "its own end, told late, is old news"
    );
}

#[test]
fn a_zygote_that_cannot_start_again_is_tried_again_later_each_time() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::ZygoteGone {
        generation: 1,
        exit: KILL,
    });
    let mut waits = Vec::new();
    for generation in 2..8 {
        let since = scene.now;
        assert_eq!(scene.next(secs(30)), [format!("start {generation}")]);
        waits.push((scene.now - since).as_millis());
        let text = "SyntaxError".to_owned();
        scene.on(Event::LoadFailed {
            generation,
            exit: 1,
            text,
        });
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200]);
    let state = scene.fleet.pool_state(scene.now);
    assert_eq!(state, PoolState::CrashLooping { retry_after: 7 });
    // The mistake is corrected, and somebody says so.
    assert_eq!(scene.on(Event::Reload)[0], "start 8");
}

#[test]
fn a_lost_zygote_lets_the_next_generation_serve_early() {
    let mut scene = Scene::serving(policy(2));
    scene.on(Event::Reload);
    scene.on(Event::ZygoteStarted {
        generation: 2,
        policy: policy(2),
    });
    scene.on(Event::Loaded { generation: 2 });
    assert_eq!(scene.on(Event::Ready { worker: w(3) }), [""; 0]);
    let actions = scene.on(Event::ZygoteGone {
        generation: 1,
        exit: SEGV,
    });
    assert_eq!(
        actions,
        [
            "gone 1 unknown exit",
            "gone 2 unknown exit",
            "switch 2",
            "admit 3"
        ]
    );
    assert_eq!(scene.on(Event::Ready { worker: w(4) }), ["admit 4"]);
}

#[test]
fn a_retired_zygote_that_does_not_go_is_killed() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Reload);
    scene.boot(2, policy(1));
    scene.exit(1, OK);
    assert_eq!(scene.next(secs(10)), ["kill-zygote 1"]);
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Reload);
    scene.boot(2, policy(1));
    scene.exit(1, OK);
    assert_eq!(
        scene.on(Event::ZygoteGone {
            generation: 1,
            exit: OK
        }),
        [""; 0]
    );
    assert_eq!(scene.fleet.next_look(), None);
    assert_eq!(scene.said("unexpectedly"), 0);
}
