//! A server that does nothing: each procedure's first answer, again and again, from memory. What a client takes with it is
//! the client's own work and two wake-ups; no server that sleeps between calls can be faster.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs,
    io::{Read, Result, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
};

/// Where the parts of a frame begin: its program, procedure, kind and serial.
const PROGRAM: usize = 4;
const PROCEDURE: usize = 12;
const KIND: usize = 16;
const SERIAL: usize = 20;
const CALL: u32 = 0;
const REPLY: u32 = 1;

/// Listens beside `socket` and answers as the server there does; gives its own socket. It ends with this process.
pub fn beside(socket: &Path) -> PathBuf {
    let own = socket.with_file_name("recorded");
    let _ = fs::remove_file(&own);
    let listener = UnixListener::bind(&own).unwrap();
    let server = socket.to_owned();
    thread::spawn(move || {
        let mut answers = HashMap::new();
        for client in listener.incoming() {
            // Ends with an error when the client leaves.
            let _ = serve(client.unwrap(), UnixStream::connect(&server).unwrap(), &mut answers);
        }
    });
    own
}

fn serve(mut client: UnixStream, mut server: UnixStream, answers: &mut HashMap<(u32, u32), Vec<u8>>) -> Result<()> {
    loop {
        let call = frame(&mut client)?;
        if word(&call, KIND) != CALL {
            continue;
        }
        let key = (word(&call, PROGRAM), word(&call, PROCEDURE));
        let answer = match answers.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                server.write_all(&call)?;
                let mut answer = frame(&mut server)?;
                while word(&answer, KIND) != REPLY {
                    answer = frame(&mut server)?;
                }
                unknown.insert(answer)
            }
        };
        answer[SERIAL..SERIAL + 4].copy_from_slice(&call[SERIAL..SERIAL + 4]);
        client.write_all(answer)?;
    }
}

fn word(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

/// One frame with its length in front.
fn frame(stream: &mut UnixStream) -> Result<Vec<u8>> {
    // Short calls come whole, in one read, as in a server that is quick.
    let mut frame = vec![0; 4096];
    let mut read = 0;
    loop {
        read += match stream.read(&mut frame[read..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => count,
        };
        if read >= 4 {
            let length = usize::try_from(word(&frame, 0)).unwrap();
            if read >= length {
                assert_eq!(read, length, "the client waits for each answer");
                frame.truncate(length);
                return Ok(frame);
            }
            frame.resize(length, 0);
        }
    }
}
