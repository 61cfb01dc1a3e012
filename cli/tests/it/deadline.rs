//! `--timeout` is one deadline for all that a command waits for.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{Program, frame};

const TIMEOUT: Duration = Duration::from_secs(3);

/// What the start and the end of a process may take on top of it.
const LATEST: Duration = Duration::from_millis(3900);

/// A center that accepts, takes its time over the first topic operation on a connection, and answers nothing else.
fn slow_center(first_answer: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer_once(stream, first_answer));
        }
    });
    address
}

fn answer_once(mut stream: TcpStream, after: Duration) -> Option<()> {
    let (kind, id) = request(&mut stream)?;
    if kind == REQ_TOPIC {
        thread::sleep(after); // the time that it takes is what is tested
        stream.write_all(&frame(RSP_TOPIC, &id, r#"{"rcode":0}"#)).ok()?;
    }
    while request(&mut stream).is_some() {}
    None
}

/// Reads a frame to its end; returns its kind and its id.
fn request(stream: &mut TcpStream) -> Option<(u32, Vec<u8>)> {
    let mut head = [[0; 4]; 3];
    stream.read_exact(head.as_flattened_mut()).ok()?;
    let [length, kind, id_length] = head.map(u32::from_be_bytes);
    let mut rest = vec![0; length as usize - 8];
    stream.read_exact(&mut rest).ok()?;
    rest.truncate(id_length as usize);
    Some((kind, rest))
}

#[test]
fn every_step_of_a_command_has_the_same_deadline() {
    let silent = slow_center(Duration::from_hours(1));
    let slow = slow_center(TIMEOUT / 2);
    // To connect takes 300 ms at a center that does not answer whether it knows sessions; 3 s less that are left.
    let rows = [
        (vec!["call", "add"], &silent, None), // a discovery does not tell how long it waited
        (vec!["discover", "add"], &silent, None),
        (vec!["provide", "--demo"], &silent, Some(2.701)),
        (vec!["pub", "news", "text"], &silent, Some(2.701)),
        (vec!["sub", "news"], &silent, Some(2.701)),
        (vec!["pub", "news", "text", "--create"], &slow, Some(1.201)),
        (vec!["sub", "news", "--create"], &slow, Some(1.201)),
    ];
    let started = Instant::now();
    let start = |arguments: &[&str], center: &str| {
        Program::start(&[arguments, &["--timeout", "3s", "--center", center]].concat())
    };
    let programs: Vec<_> = rows.iter().map(|(arguments, center, left)| (start(arguments, center), *left)).collect();
    for (program, left) in programs {
        let ended = program.end();
        assert!(started.elapsed() < LATEST, "{:?}: {ended:?}", started.elapsed());
        let line = ended.failed(1);
        match left {
            Some(left) => assert!(last_step_was_given(&line) <= left, "{left}: {line}"),
            None => assert!(line.contains("has not answered in time"), "{line}"),
        }
    }
}

/// The seconds in `no answer within 2.7s` or `no answer within 300ms`.
fn last_step_was_given(line: &str) -> f64 {
    let given = line.split_once("no answer within ").and_then(|(_, given)| given.split_once('s'));
    let (number, _) = given.unwrap_or_else(|| panic!("it does not say how long it waited: {line}"));
    let seconds = number.strip_suffix('m').map_or_else(|| number.parse(), |ms| ms.parse().map(|ms: f64| ms / 1e3));
    seconds.unwrap_or_else(|why| panic!("{why}: {line}"))
}

const REQ_TOPIC: u32 = 2;
const RSP_TOPIC: u32 = 3;
