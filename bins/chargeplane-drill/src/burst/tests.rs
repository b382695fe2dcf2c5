use super::*;
use serde_json::json;
use std::net::TcpListener;
use std::sync::Arc;

const SHED: &str = "{\"code\":\"overloaded\"}";

/// A stand-in that holds `room` requests at once and sheds the rest, as the node does; `deaf` answers nothing.
fn serve(room: u64, deaf: bool) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let in_hand = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, in_hand) = (stream.expect("accepted"), in_hand.clone());
            std::thread::spawn(move || {
                let mut read = Vec::new();
                let mut byte = [0];
                while !read.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    read.push(byte[0]);
                }
                if deaf {
                    return;
                }
                let (status, text) = if in_hand.fetch_add(1, Ordering::SeqCst) < room {
                    let _ = stream.read(&mut [0; 4096]);
                    ("201 Created", "{\"balance\":\"1.0000\"}")
                } else {
                    ("503 Service Unavailable", SHED)
                };
                in_hand.fetch_sub(1, Ordering::SeqCst);
                let kind = "Content-Type: application/problem+json";
                let answer = format!("HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    Client::new(&base, "t")
}

fn posts(count: usize) -> Vec<Post> {
    let post = |n| Post { path: "/api/v1/x".into(), key: format!("k{n}"), body: json!({ "amount": "1" }) };
    (0..count).map(post).collect()
}

fn count(outcome: &Outcome, status: u16) -> usize {
    outcome.answers.iter().flatten().filter(|answer| answer.status == status).count()
}

#[test]
fn a_burst_always_meets_the_bound_and_all_are_answered() {
    let outcome = run(&serve(8, false), &posts(40), 8);
    assert_eq!((count(&outcome, 201), count(&outcome, 503), outcome.in_hand), (8, 32, 8));
}

#[test]
fn a_node_that_takes_in_more_than_it_said_is_seen() {
    let outcome = run(&serve(100, false), &posts(20), 8);
    assert_eq!((count(&outcome, 201), outcome.in_hand), (20, 20));
}

#[test]
fn requests_without_an_answer_are_told() {
    let outcome = run(&serve(8, true), &posts(5), 8);
    assert_eq!(outcome.answers, vec![None; 5]);
}

#[test]
fn answers_are_read_as_they_come() {
    let whole =
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: 4\r\n\r\ntrue";
    for cut in 0..whole.len() {
        assert_eq!(parse(&whole[..cut]), None);
    }
    let answer = parse(whole).expect("whole");
    assert_eq!(
        (answer.status, answer.content_type.as_str(), answer.body),
        (503, "application/problem+json", json!(true))
    );
}
