//! What comes from the peers of our own protocol.

use std::{io::Write, os::unix::net::UnixStream};

use ipc::{Caps, Conn, Kind, codec};

/// A frame carries no more than this here.
const CAPS: Caps = Caps { body: 1 << 20, fds: 4 };
/// A socket takes so much without anybody reading.
const MOST: usize = 64 << 10;

/// A configuration file.
pub fn conf(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = 0;
    let read = ipc::conf::parse(&text, std::path::Path::new("/x.conf"), |key, value| {
        assert!(!key.contains(['\n', '=']) && !value.contains('\n'), "{key:?} = {value:?}");
        lines += 1;
        if key == "bad" { Err("bad".to_owned()) } else { Ok(()) }
    });
    assert!(lines <= text.lines().count());
    drop(read.map_err(|error| error.to_string()));
}

/// What a daemon or its client reads: a connection's bytes.
pub fn frames(bytes: &[u8]) {
    let (mut peer, socket) = UnixStream::pair().expect("a pair of sockets");
    peer.write_all(&bytes[..bytes.len().min(MOST)]).expect("room in the socket");
    drop(peer);
    let mut conn = Conn::new(socket, CAPS);
    while let Ok(frame) = conn.recv() {
        body(frame.kind, &frame.body);
    }
}

fn body(kind: Kind, bytes: &[u8]) {
    let mut out = Vec::new();
    match kind {
        Kind::Hello => drop(codec::decode::<ipc::Hello>(bytes)),
        Kind::Call => {
            if let Ok(call) = codec::decode_call(bytes) {
                codec::encode_call(&call, &mut out).expect("what was read can be written");
                assert_eq!(codec::decode_call(&out).expect("and read").op(), call.op());
            }
        }
        Kind::Reply => {
            if let Ok(reply) = codec::decode_reply(bytes) {
                codec::encode_reply(&reply, &mut out).expect("what was read can be written");
                assert_eq!(codec::decode_reply(&out).expect("and read").op(), reply.op());
            }
        }
        Kind::Error => {
            if let Ok(error) = codec::decode_error(bytes) {
                codec::encode_error(&error, &mut out).expect("what was read can be written");
                assert_eq!(codec::decode_error(&out).expect("and read"), error);
            }
        }
        Kind::Event => {
            if let Ok(event) = codec::decode_event(bytes) {
                codec::encode_event(&event, &mut out).expect("what was read can be written");
                assert_eq!(codec::decode_event(&out).expect("and read").op(), event.op());
            }
        }
    }
}
