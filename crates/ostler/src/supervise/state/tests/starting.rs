//! How an app comes up, and how it fails to.

use super::*;

#[test]
fn a_start_goes_from_the_zygote_to_the_last_worker() {
    let mut scene = Scene::new(policy(2));
    let started = Event::ZygoteStarted {
        generation: 1,
        policy: policy(2),
    };
    assert_eq!(
        scene.on(started),
        ["workers None->2", "load 1", "pool Starting"]
    );
    assert_eq!(
        scene.on(Event::Loaded { generation: 1 }),
        ["switch 1", "fork 1/1", "fork 1/2"]
    );
    assert_eq!(
        scene.on(Event::Forked {
            worker: w(1),
            pid: 77
        }),
        [""; 0]
    );
    assert_eq!(
        scene.on(Event::Ready { worker: w(2) }),
        ["admit 2", "pool Serving"]
    );
    assert_eq!(
        scene.on(Event::Ready { worker: w(1) }),
        ["admit 1", "when-ready"]
    );
    assert_eq!(scene.said("worker 1 (pid 77) is up"), 1);
    assert_eq!(scene.fleet.next_look(), None, "nothing to wait for");
}

#[test]
fn what_cannot_start_ends_the_server_with_its_exit_code() {
    let failed = |exit| Event::BootFailed {
        worker: w(1),
        exit,
        text: "Traceback".to_owned(),
    };
    let cases: [(Option<Event>, Exit, &str); 5] = [
        (Some(failed(3)), Exit::Code(3), "finish 3"),
        (Some(failed(4)), Exit::Code(4), "finish 4"),
        (None, Exit::Code(3), "finish 3"),
        (None, Exit::Code(4), "finish 4"),
        (Some(failed(0)), Exit::Unknown, "finish 1"),
    ];
    for (said, exit, end) in cases {
        let mut scene = Scene::new(policy(4));
        scene.on(Event::ZygoteStarted {
            generation: 1,
            policy: policy(4),
        });
        scene.on(Event::Loaded { generation: 1 });
        let text = said.is_some();
        if let Some(said) = said {
            scene.on(said);
        }
        assert_eq!(scene.exit(1, exit).last().map(String::as_str), Some(end));
        assert_eq!(scene.said("Traceback"), usize::from(text));
        assert_eq!(
            scene.exit(2, exit),
            [""; 0],
            "after the end there is nothing"
        );
    }
}

#[test]
fn an_app_that_cannot_be_loaded_ends_the_server() {
    let mut scene = Scene::new(policy(1));
    scene.on(Event::ZygoteStarted {
        generation: 1,
        policy: policy(1),
    });
    let failed = Event::LoadFailed {
        generation: 1,
        exit: 4,
        text: "no \"ap\"".to_owned(),
    };
    assert_eq!(scene.on(failed), ["kill-zygote 1", "finish 4"]);
    assert_eq!(scene.said("no \"ap\""), 1);
}

#[test]
fn a_crash_loop_before_the_first_ready_ends_the_server() {
    for (exit, code) in [
        (Exit::Code(7), "finish 7"),
        (SEGV, "finish 139"),
        (OK, "finish 3"),
    ] {
        let mut scene = Scene::new(policy(1));
        scene.on(Event::ZygoteStarted {
            generation: 1,
            policy: policy(1),
        });
        scene.on(Event::Loaded { generation: 1 });
        for id in 1..5 {
            let actions = scene.exit(id, exit);
            assert_eq!(
                actions,
                [format!("gone {id} {exit}")],
                "and it is tried again"
            );
            assert_eq!(scene.next(secs(1)), [format!("fork 1/{}", id + 1)]);
        }
        assert_eq!(scene.exit(5, exit).last().map(String::as_str), Some(code));
        assert_eq!(scene.said("before the first one is up"), 1);
    }
}

#[test]
fn a_worker_that_imports_for_five_minutes_is_given_up() {
    let mut scene = Scene::new(policy(1));
    scene.on(Event::ZygoteStarted {
        generation: 1,
        policy: policy(1),
    });
    scene.on(Event::Loaded { generation: 1 });
    assert_eq!(scene.pass(299), [""; 0]);
    assert_eq!(scene.next(secs(1)), ["abort 1"]);
    assert_eq!(scene.next(secs(2)), ["kill 1"]);
    assert_eq!(scene.exit(1, KILL), ["gone 1 SIGKILL", "finish 3"]);
    assert_eq!(scene.said("was not ready within 300 s"), 1);
}

#[test]
fn an_app_that_imports_for_five_minutes_in_the_zygote_is_given_up() {
    let mut scene = Scene::new(policy(1));
    scene.on(Event::ZygoteStarted {
        generation: 1,
        policy: policy(1),
    });
    assert_eq!(scene.next(secs(300)), ["kill-zygote 1", "finish 3"]);
}

#[test]
fn a_zygote_that_crashes_while_it_loads_ends_the_server() {
    let mut scene = Scene::new(policy(1));
    scene.on(Event::ZygoteStarted {
        generation: 1,
        policy: policy(1),
    });
    assert_eq!(
        scene.on(Event::ZygoteGone {
            generation: 1,
            exit: SEGV
        }),
        ["finish 139"]
    );
    assert_eq!(scene.said("SIGSEGV"), 1);
}
