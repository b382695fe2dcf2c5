//! The TCP front of the account books over a whole node on memory stores: what a client sees.

use chargeplane_actors::node::Node;
use chargeplane_actors::testing::MemoryStores;
use chargeplane_api::auth::Tokens;
use chargeplane_api::ledger::client::{ClientError, LedgerClient};
use chargeplane_api::ledger::{LedgerOptions, serve};
use chargeplane_domain::account::{
    AccountAnswer, AccountCommand, AccountKind, AccountRejection, Holder, TransferTarget,
};
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Price, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use chargeplane_protocol::ledger::{self, Closing, Hello, LENGTH_BYTES, Outcome, Response, VERSION};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const ALL: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const ACME: &str = "cccccccccccccccccccccccccccccccc";

struct Server {
    address: SocketAddr,
    stores: MemoryStores,
    node: Node,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut LedgerOptions)) -> Self {
        let stores = MemoryStores::default();
        let (node, _link) = stores.start(|_| {}).await;
        let mut options = LedgerOptions::new(Tokens::parse(&format!("{ALL}\nacme {ACME}\n")).unwrap());
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = node.handle();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(listener, handle, options, stopped).await;
        });
        Self { address, stores, node, stop, task }
    }

    async fn client(&self) -> LedgerClient {
        LedgerClient::connect(self.address, ALL).await.unwrap()
    }

    /// A client, and a fleet's account that has a session.
    async fn charging(&self) -> (LedgerClient, AccountId) {
        let (mut client, account) = (self.client().await, "main/fleet".parse().unwrap());
        let opened = client.call(&account, &open("k-open")).await.unwrap();
        assert!(matches!(opened, Outcome::Done(AccountAnswer::Opened(_))), "{opened:?}");
        let held = client.call(&account, &authorise("main/s1", "main/op1")).await.unwrap();
        assert_eq!(held, Outcome::Done(AccountAnswer::Authorised { hold: Money(20_000) }));
        (client, account)
    }

    /// A connection on which a test writes its own bytes, with the hello already sent.
    async fn raw(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(&hello(ALL)).await.unwrap();
        stream
    }
}

fn hello(token: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    ledger::write_hello(&mut bytes, &Hello { version: VERSION, token: token.into(), compact: false }).unwrap();
    bytes
}

/// All that the node says until it closes.
async fn everything(stream: &mut TcpStream) -> Vec<Response> {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let (mut rest, mut responses) = (&bytes[..], Vec::new());
    while let Some((value, after)) = ledger::split(rest, 1 << 20).unwrap() {
        responses.push(ledger::read_response(value).unwrap());
        rest = after;
    }
    assert!(rest.is_empty(), "half a frame");
    responses
}

#[track_caller]
fn closing(responses: &[Response]) -> &Closing {
    match responses.last() {
        Some(Response(0, Outcome::Closing(closing))) => closing,
        other => panic!("the last frame is {other:?}"),
    }
}

fn currency() -> Currency {
    Currency::new("CNY").unwrap()
}

fn open(key: &str) -> AccountCommand {
    let kind = AccountKind::Credit { limit: Money(1_000_000_000) };
    AccountCommand::Open { key: key.into(), currency: currency(), kind, holder: Holder::Fleet, at: Timestamp(0) }
}

fn tariff() -> Tariff {
    let price = Price { energy: Money(8_000), service: Money(1_000) };
    Tariff { currency: currency(), prices: [price; PERIODS], slots: Slots::uniform(0).unwrap(), fees: Fees::NONE }
}

fn authorise(session: &str, operator: &str) -> AccountCommand {
    AccountCommand::Authorise {
        session: session.parse().unwrap(),
        operator: operator.parse().unwrap(),
        tariff: tariff(),
        split: None,
        want: Money(20_000),
        reserve: Money(2_000),
        at: Timestamp(0),
    }
}

fn debit(session: &str, sequence: u32) -> AccountCommand {
    let meter = WattHours(i64::from(sequence) * 100);
    let mut by_period = [WattHours::ZERO; PERIODS];
    by_period[0] = meter;
    AccountCommand::Debit {
        session: session.parse().unwrap(),
        sequence,
        meter,
        by_period,
        time: MeteredTime::NONE,
        cumulative: tariff().price(&by_period, &MeteredTime::NONE),
        hold_target: Money(20_000),
        at: Timestamp(0),
    }
}

fn top_up(key: &str, amount: i64) -> AccountCommand {
    AccountCommand::TopUp { key: key.into(), amount: Money(amount), currency: None, at: Timestamp(0) }
}

#[tokio::test]
async fn commands_are_answered_refused_and_repeated_as_over_http() {
    let server = Server::start().await;
    let (mut client, account) = server.charging().await;
    let first = client.call(&account, &debit("main/s1", 1)).await.unwrap();
    let Outcome::Done(AccountAnswer::Debited(answer)) = &first else { panic!("{first:?}") };
    assert_eq!((answer.sequence, answer.cumulative.total()), (1, Money(900)));
    assert_eq!(client.call(&account, &debit("main/s1", 1)).await.unwrap(), first, "a repeat is answered the same");
    let Outcome::Refused(gap) = client.call(&account, &debit("main/s1", 3)).await.unwrap() else { panic!() };
    assert_eq!((&*gap.code, gap.rejection), ("sequence_gap", AccountRejection::SequenceGap { expected: 2 }));

    let to: AccountId = "main/other".parse().unwrap();
    client.call(&to, &open("k")).await.unwrap();
    client.call(&account, &top_up("k-top", 5_000_000)).await.unwrap();
    let transfer = AccountCommand::TransferOut {
        key: "k-transfer".into(),
        to: to.clone(),
        amount: Money(10_000),
        currency: None,
        target: TransferTarget::Unknown,
        at: Timestamp(0),
    };
    let sent = client.call(&account, &transfer).await.unwrap();
    assert!(matches!(sent, Outcome::Done(AccountAnswer::TransferredOut { .. })), "{sent:?}");
    let Outcome::Refused(missing) = client.call(&"main/nobody".parse().unwrap(), &top_up("k", 1)).await.unwrap() else {
        panic!()
    };
    assert_eq!(missing.rejection, AccountRejection::UnknownAccount);
    // What was posted here is what the rest of the node sees, with the node's own time.
    let view = server.node.handle().account(&account).await.unwrap();
    assert_eq!(view.balance, Money(5_000_000 - 10_000 - 900));
    assert!(view.opened_at > Timestamp(1_500_000_000_000), "{:?}", view.opened_at);
}

#[tokio::test]
async fn a_pipeline_is_answered_once_each_and_debits_are_taken_in_their_order() {
    let server = Server::with(|options| options.max_outstanding = 16).await;
    let (mut client, account) = server.charging().await;
    // Many more than may be outstanding, in one write: the node reads on as it answers.
    for sequence in 2..=500 {
        client.put(u64::from(sequence), &account, &debit("main/s1", sequence - 1)).unwrap();
    }
    client.flush().await.unwrap();
    let mut answered = BTreeSet::new();
    while answered.len() < 499 {
        let Response(number, outcome) = client.answer().await.unwrap();
        let Outcome::Done(AccountAnswer::Debited(debited)) = outcome else { panic!("{number}: {outcome:?}") };
        assert_eq!(u64::from(debited.sequence) + 1, number);
        assert!(answered.insert(number), "{number} is answered twice");
    }
    assert_eq!(server.node.handle().account(&account).await.unwrap().balance, Money(-499 * 900));
}

#[tokio::test]
async fn no_more_is_taken_in_than_may_be_outstanding() {
    let server = Server::with(|options| options.max_outstanding = 4).await;
    let (mut client, account) = server.charging().await;
    server.stores.journal.hold(true);
    for number in 0..50 {
        client.put(number, &account, &top_up(&format!("k{number}"), 1)).unwrap();
    }
    client.flush().await.unwrap();
    let waits = tokio::time::timeout(Duration::from_millis(300), client.answer()).await;
    assert!(waits.is_err(), "answered before it was durable: {waits:?}");
    let under_way = server.node.handle().posted();
    assert!(under_way <= 4, "{under_way} are under way");
    server.stores.journal.hold(false);
    for _ in 0..50 {
        assert!(matches!(client.answer().await.unwrap().1, Outcome::Done(AccountAnswer::ToppedUp { .. })));
    }
}

#[tokio::test]
async fn a_token_is_needed_and_covers_its_tenant_only() {
    let server = Server::start().await;
    let refused = LedgerClient::connect(server.address, &"x".repeat(32)).await.err().unwrap();
    assert!(matches!(&refused, ClientError::Closing(closing) if closing.code == "token_unknown"), "{refused}");
    let mut acme = LedgerClient::connect(server.address, ACME).await.unwrap();
    let Outcome::Failed(other) = acme.call(&"main/a".parse().unwrap(), &open("k")).await.unwrap() else { panic!() };
    assert_eq!((&*other.code, other.nothing_done), ("other_tenant", true));
    let own = acme.call(&"acme/a".parse().unwrap(), &open("k")).await.unwrap();
    assert!(matches!(own, Outcome::Done(_)), "{own:?}");
    let foreign = authorise("main/s9", "acme/op");
    let Outcome::Failed(other) = acme.call(&"acme/a".parse().unwrap(), &foreign).await.unwrap() else { panic!() };
    assert!(other.detail.contains("session main/s9 is of tenant main"), "{}", other.detail);
    let nobody = server.node.handle().account(&"main/a".parse().unwrap()).await;
    assert!(nobody.is_err(), "{nobody:?}");
}

#[tokio::test]
async fn what_accounts_tell_each_other_is_refused_to_clients() {
    let server = Server::start().await;
    let (mut client, account) = server.charging().await;
    let forged = AccountCommand::TransferIn {
        transfer: "main/other.t1".parse().unwrap(),
        ended_below: 0,
        currency: currency(),
        amount: Money(1_000_000),
        at: Timestamp(0),
    };
    let Outcome::Failed(refused) = client.call(&account, &forged).await.unwrap() else { panic!() };
    assert_eq!((&*refused.code, refused.nothing_done), ("invalid", true));
    assert_eq!(server.node.handle().account(&account).await.unwrap().balance, Money::ZERO);
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_is_named_after_the_answers_and_ends_the_connection() {
    let server = Server::start().await;
    server.charging().await;
    let mut stream = server.raw().await;
    let mut bytes = Vec::new();
    ledger::write_request(&mut bytes, 5, &"main/fleet".parse().unwrap(), &debit("main/s1", 1), false).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 0]);
    bytes.extend_from_slice(&[0, 0, 0, 3, 0xc1, 0xc1, 0xc1]);
    ledger::write_request(&mut bytes, 6, &"main/fleet".parse().unwrap(), &debit("main/s1", 2), false).unwrap();
    stream.write_all(&bytes).await.unwrap();
    let said = everything(&mut stream).await;
    assert!(matches!(&said[0], Response(0, Outcome::Welcome(_))), "{said:?}");
    assert!(matches!(&said[1], Response(5, Outcome::Done(AccountAnswer::Debited(_)))), "{said:?}");
    let end = closing(&said);
    // The hello, the debit and the sign of life came before it; what followed it was not done.
    assert_eq!((&*end.code, end.frame, said.len()), ("bad_frame", 4, 3));
    assert!(end.detail.contains("frame 4: byte 1"), "{}", end.detail);
    let view = server.node.handle().account(&"main/fleet".parse().unwrap()).await.unwrap();
    assert_eq!(view.balance, Money(-900));
}

#[tokio::test]
async fn a_wrong_request_with_a_number_is_answered_and_the_connection_goes_on() {
    let server = Server::start().await;
    let mut stream = server.raw().await;
    // 7, "main/a", {"top_up": {"key": "k", "amount": "ten"}}
    let mut value = vec![0x93, 7, 0xa6];
    value.extend_from_slice(b"main/a\x81\xa6top_up\x82\xa3key\xa1k\xa6amount\xa3ten");
    let mut bytes = (value.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&value);
    ledger::write_request(&mut bytes, 8, &"main/a".parse().unwrap(), &open("k"), true).unwrap();
    stream.write_all(&bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let said = everything(&mut stream).await;
    let Response(7, Outcome::Failed(wrong)) = &said[1] else { panic!("{said:?}") };
    assert_eq!((&*wrong.code, wrong.nothing_done), ("invalid", true));
    assert!(wrong.detail.contains("amount"), "{}", wrong.detail);
    assert!(matches!(&said[2], Response(8, Outcome::Done(AccountAnswer::Opened(_)))), "{said:?}");
    assert_eq!(said.len(), 3, "a client that closes its side is told no reason: {said:?}");
}

#[tokio::test]
async fn hostile_beginnings_are_refused_with_their_reason() {
    let server = Server::start().await;
    let large = u32::MAX.to_be_bytes().to_vec();
    let mut wrong_version = Vec::new();
    let newer = Hello { version: 2, token: ALL.into(), compact: true };
    ledger::write_hello(&mut wrong_version, &newer).unwrap();
    let mut request_first = Vec::new();
    ledger::write_request(&mut request_first, 1, &"main/a".parse().unwrap(), &open("k"), true).unwrap();
    let http = b"GET / HTTP/1.1\r\n\r\n".to_vec();
    for (bytes, code) in [
        (large, "frame_too_large"),
        (wrong_version, "unknown_version"),
        (request_first, "bad_hello"),
        (http, "frame_too_large"),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let said = everything(&mut stream).await;
        assert_eq!((&*closing(&said).code, said.len()), (code, 1), "{said:?}");
    }
    // A frame that is larger than allowed, after a good hello, is refused by its length.
    let mut stream = server.raw().await;
    stream.write_all(&65_537_u32.to_be_bytes()).await.unwrap();
    assert_eq!(closing(&everything(&mut stream).await).code, "frame_too_large");
}

#[tokio::test]
async fn a_frame_in_pieces_and_a_frame_of_the_largest_size_are_read() {
    let server = Server::start().await;
    let mut stream = server.raw().await;
    let mut bytes = Vec::new();
    ledger::write_request(&mut bytes, 1, &"main/a".parse().unwrap(), &open("k"), true).unwrap();
    let reason = "r".repeat(65_000);
    let large = AccountCommand::Freeze { key: "k2".into(), reason, at: Timestamp(0) };
    ledger::write_request(&mut bytes, 2, &"main/a".parse().unwrap(), &large, true).unwrap();
    assert!(bytes.len() > 65_000 + LENGTH_BYTES);
    for piece in bytes.chunks(7_001).chain([]) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    stream.shutdown().await.unwrap();
    let said = everything(&mut stream).await;
    assert!(matches!(&said[1], Response(1, Outcome::Done(_))), "{said:?}");
    let Response(2, Outcome::Refused(refused)) = &said[2] else { panic!("{said:?}") };
    assert_eq!(refused.rejection, AccountRejection::InvalidReason);
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so() {
    let server = Server::with(|options| options.max_connections = 1).await;
    let first = server.client().await;
    let refused = LedgerClient::connect(server.address, ALL).await.err().unwrap();
    assert!(matches!(&refused, ClientError::Closing(closing) if closing.code == "overloaded"), "{refused}");
    drop(first);
    for attempt in 0.. {
        match LedgerClient::connect(server.address, ALL).await {
            Ok(_) => break,
            Err(error) => assert!(attempt < 200, "the place is not given back: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_node_that_ends_answers_what_it_has_read() {
    let server = Server::start().await;
    let (mut client, account) = server.charging().await;
    server.stores.journal.hold(true);
    for number in 1..=20 {
        client.put(number, &account, &debit("main/s1", u32::try_from(number).unwrap())).unwrap();
    }
    client.flush().await.unwrap();
    while server.node.handle().posted() < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = server.stop.send(());
    tokio::time::sleep(Duration::from_millis(50)).await;
    // Too late to be read.
    client.put(99, &account, &top_up("late", 1)).unwrap();
    client.flush().await.unwrap();
    server.stores.journal.hold(false);
    for _ in 0..20 {
        assert!(matches!(client.answer().await.unwrap().1, Outcome::Done(AccountAnswer::Debited(_))));
    }
    let end = client.answer().await.err().unwrap();
    assert!(matches!(&end, ClientError::Closing(closing) if closing.code == "draining"), "{end}");
    tokio::time::timeout(Duration::from_secs(10), server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    assert_eq!(server.node.handle().account(&account).await.unwrap().balance, Money(-20 * 900));
}

#[tokio::test]
async fn a_request_that_nobody_answers_times_out_and_its_repeat_tells_what_became_of_it() {
    let server = Server::with(|options| {
        options.answer_within = Duration::from_millis(100);
        options.max_outstanding = 1;
    })
    .await;
    let (mut client, account) = server.charging().await;
    server.stores.journal.hold(true);
    let Outcome::Failed(late) = client.call(&account, &debit("main/s1", 1)).await.unwrap() else { panic!() };
    assert_eq!((&*late.code, late.nothing_done), ("timeout", false));
    server.stores.journal.hold(false);
    let again = client.call(&account, &debit("main/s1", 1)).await.unwrap();
    assert!(matches!(&again, Outcome::Done(AccountAnswer::Debited(answer)) if answer.sequence == 1), "{again:?}");
    let next = client.call(&account, &debit("main/s1", 2)).await.unwrap();
    assert!(matches!(&next, Outcome::Done(AccountAnswer::Debited(answer)) if answer.sequence == 2), "{next:?}");
    assert_eq!(server.node.handle().account(&account).await.unwrap().balance, Money(-2 * 900));
}

#[tokio::test]
async fn silence_ends_a_connection_and_a_sign_of_life_keeps_it() {
    let server = Server::with(|options| options.idle = Duration::from_millis(1_500)).await;
    let mut silent = server.raw().await;
    let mut lively = server.raw().await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        lively.write_all(&[0, 0, 0, 0]).await.unwrap();
    }
    let said = everything(&mut silent).await;
    assert_eq!(closing(&said).code, "idle");
    let mut bytes = Vec::new();
    ledger::write_request(&mut bytes, 1, &"main/a".parse().unwrap(), &open("k"), true).unwrap();
    lively.write_all(&bytes).await.unwrap();
    lively.shutdown().await.unwrap();
    assert!(matches!(everything(&mut lively).await.last(), Some(Response(1, Outcome::Done(_)))));
}

#[tokio::test]
async fn a_client_that_says_nothing_at_all_is_not_kept() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(closing(&everything(&mut stream).await).code, "hello_missing");
}
