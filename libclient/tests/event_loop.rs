//! The event loop: handles, timers, callbacks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use libclient::{
    Connection, CreateFlags, DestroyFlags, ErrorCode, EventKind,
    event::{self, DefaultLoop, EventImpl, HandleEvents},
};

const SOON: Option<Duration> = Some(Duration::from_secs(20));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn counter() -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let counter = Arc::new(AtomicUsize::new(0));
    (Arc::clone(&counter), counter)
}

#[test]
fn a_handle_is_told_again_until_it_is_empty() {
    let events = DefaultLoop::new().unwrap();
    let (mut near, far) = UnixStream::pair().unwrap();
    let (calls, count) = counter();
    let mut reader = far.try_clone().unwrap();
    let handle = events
        .add_handle(
            far.as_fd(),
            HandleEvents::READABLE,
            Box::new(move |happened| {
                assert!(happened.contains(HandleEvents::READABLE));
                reader.read_exact(&mut [0]).unwrap();
                calls.fetch_add(1, Ordering::Relaxed);
            }),
        )
        .unwrap();
    assert!(!events.run_once(NOW).unwrap());
    near.write_all(b"abc").unwrap();
    for _ in 0..3 {
        assert!(events.run_once(SOON).unwrap());
    }
    assert!(!events.run_once(NOW).unwrap());
    assert_eq!(count.load(Ordering::Relaxed), 3);

    events.update_handle(handle, HandleEvents::empty());
    near.write_all(b"x").unwrap();
    assert!(!events.run_once(NOW).unwrap());
    events.update_handle(handle, HandleEvents::READABLE);
    assert!(events.run_once(SOON).unwrap());
    events.remove_handle(handle);
    near.write_all(b"x").unwrap();
    assert!(!events.run_once(NOW).unwrap());
}

#[test]
fn a_hang_up_is_told_to_whoever_watches() {
    let events = DefaultLoop::new().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let (sender, receiver) = mpsc::channel();
    events
        .add_handle(far.as_fd(), HandleEvents::HANGUP, Box::new(move |happened| sender.send(happened).unwrap()))
        .unwrap();
    drop(near);
    assert!(events.run_once(SOON).unwrap());
    assert!(receiver.recv().unwrap().contains(HandleEvents::HANGUP));
}

#[test]
fn timers_come_back_and_change() {
    let events = DefaultLoop::new().unwrap();
    let (calls, count) = counter();
    let timer = events
        .add_timeout(
            Some(Duration::from_millis(5)),
            Box::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }),
        )
        .unwrap();
    let begin = Instant::now();
    while count.load(Ordering::Relaxed) < 3 {
        events.run_once(SOON).unwrap();
    }
    assert!(begin.elapsed() >= Duration::from_millis(15));
    events.update_timeout(timer, None);
    assert!(!events.run_once(Some(Duration::from_millis(20))).unwrap() || count.load(Ordering::Relaxed) == 3);
    events.update_timeout(timer, Some(Duration::from_millis(1)));
    while count.load(Ordering::Relaxed) < 4 {
        events.run_once(SOON).unwrap();
    }
    events.remove_timeout(timer);
    events.run_once(Some(Duration::from_millis(5))).unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 4);
}

#[test]
fn a_timer_from_another_thread_wakes_the_loop() {
    let events = DefaultLoop::new().unwrap();
    let running = events.clone();
    let thread = std::thread::spawn(move || running.run());
    let stopping = events.clone();
    events.add_timeout(Some(Duration::from_millis(1)), Box::new(move || stopping.stop())).unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_callback_may_remove_itself() {
    let events = DefaultLoop::new().unwrap();
    let (mut near, far) = UnixStream::pair().unwrap();
    let handle = Arc::new(Mutex::new(None));
    let (own, remover) = (Arc::clone(&handle), events.clone());
    let id = events
        .add_handle(
            far.as_fd(),
            HandleEvents::READABLE,
            Box::new(move |_| remover.remove_handle(own.lock().unwrap().take().unwrap())),
        )
        .unwrap();
    *handle.lock().unwrap() = Some(id);
    near.write_all(b"x").unwrap();
    assert!(events.run_once(SOON).unwrap());
    assert!(!events.run_once(NOW).unwrap());
}

/// The loop of the program is one for all; this is the only test that uses it.
#[test]
fn callbacks_of_a_connection() {
    let connection = Connection::open("test:///default").unwrap();
    let early = connection.register_domain_event(None, Box::new(|_| {})).unwrap_err();
    assert_eq!(early.code, ErrorCode::OPERATION_INVALID);
    assert!(early.hint.unwrap().contains("register_default"));

    let events = event::register_default().unwrap();
    assert!(event::register_default().is_ok());
    assert_eq!(event::register_event_impl(Box::new(events.clone())).unwrap_err().code, ErrorCode::OPERATION_INVALID);

    let test = connection.domain("test").unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listen = |who: &'static str| {
        let seen = Arc::clone(&seen);
        Box::new(move |event: &libclient::DomainEvent| {
            // A callback may use its connection.
            let active = event.domain.is_active().unwrap_or(false);
            seen.lock().unwrap().push((who, event.kind, active));
        })
    };
    let all = connection.register_domain_event(None, listen("all")).unwrap();
    let one = connection.register_domain_event(Some(&test), listen("test")).unwrap();
    let xml = "<domain type='test'><name>x</name><memory>1024</memory><os><type>hvm</type></os></domain>";
    connection.create_xml(xml, CreateFlags::empty()).unwrap();
    test.suspend().unwrap();
    while seen.lock().unwrap().len() < 3 {
        assert!(events.run_once(SOON).unwrap());
    }
    assert_eq!(
        *seen.lock().unwrap(),
        [("all", EventKind::Started, true), ("all", EventKind::Suspended, true), ("test", EventKind::Suspended, true)]
    );

    connection.deregister_domain_event(all).unwrap();
    assert_eq!(connection.deregister_domain_event(all).unwrap_err().code, ErrorCode::INVALID_ARG);
    test.destroy(DestroyFlags::empty()).unwrap();
    while seen.lock().unwrap().len() < 4 {
        assert!(events.run_once(SOON).unwrap());
    }
    connection.deregister_domain_event(one).unwrap();
    test.start(CreateFlags::empty()).unwrap();
    assert!(!events.run_once(NOW).unwrap());
    assert_eq!(seen.lock().unwrap().len(), 4);

    // A connection that is dropped takes its callbacks along, and does not wait for the loop.
    connection.register_domain_event(None, listen("late")).unwrap();
    drop((test, connection));
    assert!(!events.run_once(NOW).unwrap());
}
