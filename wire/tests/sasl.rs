//! Logging in by SCRAM-SHA-256: the client's side against the server's, through the calls that carry it.
#![cfg(feature = "sasl")]
#![allow(clippy::unwrap_used, clippy::panic)] // Helpers of tests may fail like tests.

use std::{
    os::unix::net::UnixStream,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use api::{Call, ErrorCode, Reply, remote};
use wire::{
    Conn,
    client::{CallError, Client, login},
    codec,
    sasl::{MECHANISM, Passwords, Scram, ServerExchange, Users, Verifier},
    transport::Unix,
};

mod support;
use support::recv;

const PATIENCE: Duration = Duration::from_secs(20);

struct Two;

impl Users for Two {
    fn verifier(&self, name: &str) -> Option<Verifier> {
        match name {
            "fred" => Verifier::derive("pencil", 4096, b"0123456789abcdef"),
            "a,b=c" => Verifier::derive("\u{e9}t\u{e9}", 4096, b"fedcba9876543210"),
            _ => None,
        }
    }
}

/// A server that lets its users in; gives the name of who got in.
fn server(mechanisms: &'static str) -> (Client, JoinHandle<Option<String>>) {
    let (a, b) = UnixStream::pair().unwrap();
    let serving = thread::spawn(move || {
        let mut conn = Conn::new(Unix::new(b));
        let mut exchange = ServerExchange::new(Arc::new(Passwords::new(Arc::new(Two))));
        while let Ok(frame) = recv(&mut conn) {
            let answer = match codec::decode_call(&frame).unwrap() {
                Call::AuthList(_) => Ok(Reply::AuthList(remote::AuthListRet { types: vec![remote::AuthType::SASL] })),
                Call::AuthSaslInit(_) => {
                    Ok(Reply::AuthSaslInit(remote::AuthSaslInitRet { mechlist: mechanisms.to_owned() }))
                }
                Call::AuthSaslStart(args) => exchange.start(&args).map(Reply::AuthSaslStart),
                Call::AuthSaslStep(args) => exchange.step(&args).map(Reply::AuthSaslStep),
                other => panic!("{other:?}"),
            };
            conn.queue_answer(&frame.header, &answer, Vec::new()).unwrap();
            assert!(conn.flush().unwrap());
        }
        exchange.name().map(str::to_owned)
    });
    (Client::new(Box::new(Unix::new(a))).unwrap(), serving)
}

fn refusal(error: login::LoginError) -> api::Error {
    match error {
        login::LoginError::Call(CallError::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_knows_the_password_gets_in() {
    for (name, password) in [("fred", "pencil"), ("a,b=c", "e\u{301}te\u{301}")] {
        let (client, serving) = server("GSSAPI,SCRAM-SHA-256 DIGEST-MD5");
        let method = client.login(Some(&mut Scram::new(name, password)), PATIENCE).unwrap();
        assert_eq!(method, login::Method::Sasl);
        drop(client);
        assert_eq!(serving.join().unwrap().as_deref(), Some(name));
    }
}

#[test]
fn a_wrong_name_and_a_wrong_password_are_refused_alike() {
    let errors = [("fred", "pen"), ("nobody", "pencil")].map(|(name, password)| {
        let (client, serving) = server(MECHANISM);
        let error = refusal(client.login(Some(&mut Scram::new(name, password)), PATIENCE).unwrap_err());
        drop(client);
        assert_eq!(serving.join().unwrap(), None);
        error
    });
    assert_eq!(errors[0].code, ErrorCode::AUTH_FAILED);
    assert_eq!(errors[0], errors[1]);
}

#[test]
fn a_server_without_the_mechanism_is_told_apart() {
    let (client, serving) = server("PLAIN");
    let error = client.login(Some(&mut Scram::new("fred", "pencil")), PATIENCE).unwrap_err();
    assert!(matches!(error, login::LoginError::NoMechanism(_)), "{error:?}");
    drop(client);
    serving.join().unwrap();
}

#[test]
fn a_server_that_cannot_prove_itself_is_not_believed() {
    // It says that all is well, and knows nothing of the password.
    for last in ["", "v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        let (a, b) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || {
            let mut conn = Conn::new(Unix::new(b));
            while let Ok(frame) = recv(&mut conn) {
                let reply = match codec::decode_call(&frame).unwrap() {
                    Call::AuthList(_) => Reply::AuthList(remote::AuthListRet { types: vec![remote::AuthType::SASL] }),
                    Call::AuthSaslInit(_) => {
                        Reply::AuthSaslInit(remote::AuthSaslInitRet { mechlist: MECHANISM.to_owned() })
                    }
                    Call::AuthSaslStart(args) => {
                        let first: Vec<u8> = args.data.iter().map(|byte| byte.cast_unsigned()).collect();
                        let first = String::from_utf8(first).unwrap();
                        let nonce = first.split(",r=").nth(1).unwrap();
                        let data = format!("r={nonce}more,s=c2FsdHNhbHQ=,i=1");
                        let data = data.bytes().map(u8::cast_signed).collect();
                        Reply::AuthSaslStart(remote::AuthSaslStartRet { complete: 0, nil: 0, data })
                    }
                    _ => {
                        let data = last.bytes().map(u8::cast_signed).collect();
                        Reply::AuthSaslStep(remote::AuthSaslStepRet { complete: 1, nil: 0, data })
                    }
                };
                conn.queue_answer(&frame.header, &Ok(reply), Vec::new()).unwrap();
                assert!(conn.flush().unwrap());
            }
        });
        let client = Client::new(Box::new(Unix::new(a))).unwrap();
        let error = client.login(Some(&mut Scram::new("fred", "pencil")), PATIENCE).unwrap_err();
        assert!(matches!(error, login::LoginError::Sasl(_)), "{error:?}");
        drop(client);
        serving.join().unwrap();
    }
}

#[test]
fn a_server_may_not_make_a_client_compute_for_ever() {
    use login::Sasl;
    let mut client = Scram::new("fred", "pencil");
    let first = String::from_utf8(client.start(&[MECHANISM]).unwrap().unwrap().initial.unwrap()).unwrap();
    let nonce = first.split(",r=").nth(1).unwrap();
    let error = client.step(Some(format!("r={nonce}x,s=YQ==,i=4294967295").as_bytes())).unwrap_err();
    assert!(error.to_string().contains("iterations"), "{error}");
    assert!(client.step(Some(&vec![b'r'; 1 << 20])).is_err());
}

fn data(text: &str) -> Vec<i8> {
    text.bytes().map(u8::cast_signed).collect()
}

#[test]
fn nonsense_in_any_order_is_refused_and_lets_nobody_in() {
    let starts = [
        "",
        ",",
        "n,,",
        "n,,n=fred",
        "n,,n=fred,r=",
        "p=tls-unique,,n=fred,r=abc",
        "y,,m=x,n=fred,r=a",
        "n,a=root,n=fred,r=a",
    ];
    let steps = ["", "c=biws", "c=biws,r=abc,p=", "c=biws,r=abc,p=AAAA", "c=,,,", "v=abc", "\u{fffd}"];
    for start in starts {
        for step in steps {
            let mut exchange = ServerExchange::new(Arc::new(Passwords::new(Arc::new(Two))));
            let begun =
                exchange.start(&remote::AuthSaslStartArgs { mech: MECHANISM.to_owned(), nil: 0, data: data(start) });
            let went = exchange.step(&remote::AuthSaslStepArgs { nil: 0, data: data(step) });
            assert!(begun.is_err() || went.is_err(), "{start} {step}");
            // And again, after the failure.
            assert!(exchange.step(&remote::AuthSaslStepArgs { nil: 0, data: data(step) }).is_err());
            assert_eq!(exchange.name(), None);
        }
    }
}

#[test]
fn what_comes_out_of_order_is_refused() {
    let new = || ServerExchange::new(Arc::new(Passwords::new(Arc::new(Two))));
    let start = remote::AuthSaslStartArgs { mech: MECHANISM.to_owned(), nil: 0, data: data("n,,n=fred,r=abcdef") };
    let nothing = remote::AuthSaslStepArgs { nil: 1, data: Vec::new() };

    let mut early = new();
    assert!(early.step(&nothing).is_err());
    assert!(early.start(&start).is_err(), "after a failure");
    assert!(new().start(&remote::AuthSaslStartArgs { mech: "PLAIN".to_owned(), ..start.clone() }).is_err());
    let mut twice = new();
    assert!(twice.start(&start).is_ok());
    assert!(twice.start(&start).is_err());
    assert!(twice.step(&nothing).is_err());
}
