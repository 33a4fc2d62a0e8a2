//! One generation after the other, and one process after the other.

use super::*;

// Reload

#[test]
fn a_reload_starts_the_new_beside_the_old_and_switches_when_all_are_ready() {
    let mut scene = Scene::serving(policy(2));
    assert_eq!(scene.on(Event::Reload), ["start 2"]);
    let started = Event::ZygoteStarted {
        generation: 2,
        policy: policy(3),
    };
    assert_eq!(
        scene.on(started),
        ["reloading", "workers Some(2)->3", "load 2"]
    );
    let forks = ["fork 2/3", "fork 2/4", "fork 2/5"];
    assert_eq!(scene.on(Event::Loaded { generation: 2 }), forks);
    assert_eq!(
        scene.on(Event::Ready { worker: w(3) }),
        [""; 0],
        "the pool hears of it later"
    );
    assert_eq!(scene.on(Event::Ready { worker: w(4) }), [""; 0]);
    let switched = [
        "switch 2", "admit 3", "admit 4", "admit 5", "drain 1", "drain 2", "retire 1",
    ];
    assert_eq!(scene.on(Event::Ready { worker: w(5) }), switched);
    assert_eq!(scene.exit(1, OK), ["gone 1 exit 0"]);
    assert_eq!(scene.exit(2, OK), ["gone 2 exit 0"]);
    assert_eq!(scene.booting(), [], "nobody replaces the old ones");
}

#[test]
fn a_reload_that_fails_leaves_everything_as_it_is() {
    let failed = |generation| Event::LoadFailed {
        generation,
        exit: 3,
        text: "Traceback".to_owned(),
    };
    let mut scene = Scene::serving(policy(2));
    scene.on(Event::Reload);
    assert_eq!(scene.on(failed(2)), ["kill-zygote 2"]);
    scene.on(Event::Reload);
    scene.on(Event::ZygoteStarted {
        generation: 3,
        policy: policy(2),
    });
    assert_eq!(scene.on(failed(3)), ["kill-zygote 3"]);
    assert_eq!(scene.said("Traceback"), 2);
    assert_eq!(scene.said("reload failed"), 2);
    assert_eq!(scene.phases(), [(1, "ready"), (2, "ready")]);
    assert_eq!(scene.fleet.live, 1);
}

#[test]
fn a_new_worker_that_cannot_start_ends_the_reload_and_no_old_worker() {
    for exit in [Exit::Code(3), Exit::Code(0), SEGV] {
        let mut scene = Scene::serving(policy(2));
        scene.on(Event::Reload);
        scene.on(Event::ZygoteStarted {
            generation: 2,
            policy: policy(2),
        });
        scene.on(Event::Loaded { generation: 2 });
        scene.on(Event::Ready { worker: w(3) });
        let actions = scene.exit(4, exit);
        assert_eq!(
            actions,
            [
                format!("gone 4 {exit}"),
                "kill 3".to_owned(),
                "kill-zygote 2".to_owned()
            ]
        );
        assert_eq!(scene.exit(3, KILL), ["gone 3 SIGKILL"]);
        assert_eq!(
            scene.said("ended unexpectedly"),
            1,
            "one of them did, the other was killed"
        );
        assert_eq!(scene.phases(), [(1, "ready"), (2, "ready")]);
    }
}

#[test]
fn the_newest_reload_wins() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Reload);
    assert_eq!(
        scene.on(Event::Reload),
        [""; 0],
        "the first has not read anything yet"
    );
    scene.on(Event::ZygoteStarted {
        generation: 2,
        policy: policy(1),
    });
    scene.on(Event::Loaded { generation: 2 });
    assert_eq!(
        scene.on(Event::Reload),
        ["kill 2", "kill-zygote 2", "start 3"]
    );
    scene.exit(2, KILL);
    scene.boot(3, policy(1));
    assert_eq!(scene.fleet.live, 3);
    assert_eq!(scene.phases(), [(1, "draining"), (3, "ready")]);
}

#[test]
fn a_zygote_that_nobody_waits_for_any_more_is_killed_when_it_comes() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Reload);
    scene.on(stop(30));
    let started = Event::ZygoteStarted {
        generation: 2,
        policy: policy(1),
    };
    assert_eq!(scene.on(started), ["kill-zygote 2"]);
}

#[test]
fn a_hundred_reloads_leave_nothing_behind() {
    let mut scene = Scene::serving(policy(2));
    for generation in 2..102 {
        scene.on(Event::Reload);
        scene.boot(generation, policy(2));
        for worker in scene.fleet.ids(|worker| worker.generation != generation) {
            scene.on(Event::Drained { worker });
            scene.exit(worker.0, OK);
        }
        scene.on(Event::ZygoteGone {
            generation: generation - 1,
            exit: OK,
        });
    }
    assert_eq!(scene.fleet.workers.len(), 2);
    assert_eq!(scene.fleet.generations.len(), 1);
    assert_eq!(scene.fleet.next_look(), None);
}

// An app whose state is in its one process

#[test]
fn alone_the_old_process_ends_before_the_new_one_loads() {
    let mut scene = Scene::serving(alone());
    scene.on(Event::Reload);
    let started = Event::ZygoteStarted {
        generation: 2,
        policy: alone(),
    };
    assert_eq!(scene.on(started), ["reloading", "drain 1", "pool Starting"]);
    assert_eq!(scene.exit(1, OK), ["gone 1 exit 0", "load 2"]);
    assert_eq!(scene.on(Event::Loaded { generation: 2 }), ["fork 2/2"]);
    let actions = scene.on(Event::Ready { worker: w(2) });
    assert_eq!(actions, ["switch 2", "admit 2", "retire 1", "pool Serving"]);
}

#[test]
fn alone_a_reload_that_fails_brings_the_old_app_back() {
    let mut scene = Scene::serving(alone());
    scene.on(Event::Reload);
    scene.on(Event::ZygoteStarted {
        generation: 2,
        policy: alone(),
    });
    scene.exit(1, OK);
    let failed = Event::LoadFailed {
        generation: 2,
        exit: 3,
        text: "Traceback".to_owned(),
    };
    assert_eq!(scene.on(failed), ["kill-zygote 2", "fork 1/2"]);
    assert_eq!(
        scene.on(Event::Ready { worker: w(2) }),
        ["admit 2", "pool Serving"]
    );
}

#[test]
fn alone_a_worker_ends_before_its_replacement_starts() {
    let recycle = Event::Recycle {
        worker: w(1),
        why: "served".to_owned(),
    };
    let replace = Event::Replace {
        worker: w(1),
        why: "slot".to_owned(),
    };
    for event in [recycle, replace, Event::TimedOut { worker: w(1) }] {
        let mut scene = Scene::serving(alone());
        let actions = scene.on(event);
        assert!(actions.contains(&"drain 1".to_owned()), "{actions:?}");
        assert!(
            !actions.iter().any(|action| action.starts_with("fork")),
            "{actions:?}"
        );
        assert_eq!(scene.exit(1, OK), ["gone 1 exit 0", "fork 1/2"]);
    }
}

#[test]
fn alone_the_number_of_workers_stays() {
    let mut scene = Scene::serving(alone());
    assert_eq!(scene.on(Event::Adjust { by: 1 }), [""; 0]);
    assert_eq!(scene.said("--single-process"), 1);
}

// One more, one less

#[test]
fn ttin_and_ttou_change_the_number_of_workers() {
    let mut scene = Scene::serving(policy(2));
    assert_eq!(
        scene.on(Event::Adjust { by: 1 }),
        ["workers Some(2)->3", "fork 1/3"]
    );
    scene.all_ready();
    assert_eq!(
        scene.on(Event::Adjust { by: -1 }),
        ["workers Some(3)->2", "drain 1"]
    );
    assert_eq!(scene.exit(1, OK), ["gone 1 exit 0"]);
    assert_eq!(
        scene.on(Event::Adjust { by: -1 }),
        ["workers Some(2)->1", "drain 2"]
    );
    assert_eq!(scene.on(Event::Adjust { by: -1 }), [""; 0], "one stays");
    scene.on(Event::Reload);
    assert_eq!(
        scene.boot(2, policy(2))[1],
        "workers Some(1)->2",
        "a reload goes by the file"
    );
}

#[test]
fn one_less_while_a_worker_boots_takes_that_one() {
    let mut scene = Scene::serving(policy(1));
    scene.on(Event::Adjust { by: 1 });
    assert_eq!(
        scene.on(Event::Adjust { by: -1 }),
        ["workers Some(2)->1", "term 2"]
    );
    assert_eq!(scene.exit(2, OK), ["gone 2 exit 0"]);
    assert_eq!(scene.phases(), [(1, "ready")]);
}
