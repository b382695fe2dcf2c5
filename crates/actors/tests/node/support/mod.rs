//! A catalogue with one charger and a gateway that is driven by hand.

#![allow(dead_code, reason = "every test file uses a part of it")]

use chargeplane_actors::handle::{CallError, NodeHandle};
use chargeplane_actors::node::Node;
use chargeplane_actors::ports::RecordQuery;
use chargeplane_actors::testing::RecordingLink;
use chargeplane_actors::views::Enrolment;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountKind, Holder};
use chargeplane_domain::catalogue::{Catalogue, Charger, Gateway, LimitNode, Station};
use chargeplane_domain::command::Action;
use chargeplane_domain::gateway::BootId;
use chargeplane_domain::ids::{AccountId, ChargerId, ConnectorNo, GatewayId, SessionId, StationId};
use chargeplane_domain::sample::Sample;
use chargeplane_domain::session::ChargeRecord;
use chargeplane_domain::split::Split;
use chargeplane_domain::tariff::book::TariffBook;
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Price, Priced, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Mono, Timestamp, WattHours, Watts};
use chargeplane_protocol::envelope::{GatewayKey, Header, Keyring};
use chargeplane_protocol::link::{LinkEvent, LinkSink};
use chargeplane_protocol::message::{
    Beat, CommandEnd, Down, DownCommand, GatewayEvent, NumberedEvent, SampleRun, Stream, UpBatch,
};
use chargeplane_protocol::{topic, wire};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub fn id<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a good id")
}

pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(i64::try_from(since.as_millis()).expect("fits"))
}

pub fn catalogue() -> Catalogue {
    let price = Price { energy: Money(12_000), service: Money(3_000) };
    let tariff = Tariff {
        currency: Currency::new("CNY").expect("a code"),
        prices: [price; 4],
        slots: Slots::uniform(2).expect("a period"),
        fees: Fees::NONE,
    };
    let station = Station {
        operator: id("op1"),
        city: "Shenzhen".to_owned(),
        time_zone: "Asia/Shanghai".to_owned(),
        tariff: id("t1"),
        split: Some(split()),
        limits: vec![LimitNode { id: "grid".into(), parent: None, limit_w: Watts(100_000), base_w: Watts(0) }],
        power: Default::default(),
    };
    let charger = |child| Charger {
        gateway: id("g1"),
        child,
        limit: "grid".into(),
        rated_w: Watts(120_000),
        min_w: Watts(12_000),
        step_w: Watts(100),
        fallback_w: Watts(12_000),
        weight: 100,
        connectors: 1,
    };
    Catalogue {
        tariffs: BTreeMap::from([(id("t1"), tariff)]),
        tariff_book: TariffBook::default(),
        stations: BTreeMap::from([(id::<StationId>("s1"), station)]),
        gateways: BTreeMap::from([(id::<GatewayId>("g1"), Gateway { station: id("s1") })]),
        chargers: BTreeMap::from([(id::<ChargerId>("c0"), charger(0)), (id("c1"), charger(1))]),
    }
}

/// The owner of the site gets a third, and what rounding leaves.
fn split() -> Split {
    let shares = BTreeMap::from([(id("op1"), 6_667), (id("owner"), 3_333)]);
    Split { shares, remainder: id("owner") }
}

/// Applies the catalogue and enrols the gateway.
pub async fn set_up(handle: &NodeHandle) -> Enrolment {
    let diff = handle.apply_catalogue(catalogue(), false).await.expect("a good catalogue");
    assert!(!diff.changes.is_empty());
    handle.enroll(id("g1")).await.expect("the gateway is in the catalogue")
}

pub async fn open_account(handle: &NodeHandle, name: &str, amount: i64) {
    let account: AccountId = id(name);
    let at = now();
    let (currency, kind) = (Currency::new("CNY").expect("a code"), AccountKind::Prepaid);
    let open = AccountCommand::Open { key: format!("open-{name}"), currency, kind, holder: Holder::Fleet, at };
    handle.account_command(account.clone(), open).await.expect("opens");
    if amount > 0 {
        let top_up = AccountCommand::TopUp { key: format!("top-up-{name}"), amount: Money(amount), currency: None, at };
        handle.account_command(account, top_up).await.expect("tops up");
    }
}

/// A session of an account, without a charger: authorised, read and settled by commands. 1.2 + 0.3 a kWh; a third is
/// the owner's of the site.
pub struct Metered {
    pub account: AccountId,
    pub session: SessionId,
    sequence: u32,
}

impl Metered {
    pub async fn begin(handle: &NodeHandle, account: &str, session: &str, want: i64, at: Timestamp) -> Self {
        Self::begin_at(handle, "op1", Some(split()), account, session, want, at).await
    }

    /// At a station of another operator.
    pub async fn begin_at(
        handle: &NodeHandle,
        operator: &str,
        split: Option<Split>,
        account: &str,
        session: &str,
        want: i64,
        at: Timestamp,
    ) -> Self {
        let (account, session): (AccountId, SessionId) = (id(account), id(session));
        let tariff = catalogue().tariffs[&id("t1")].clone();
        let (want, reserve) = (Money(want), Money(0));
        let (of, operator) = (session.clone(), id(operator));
        let command = AccountCommand::Authorise { session: of, operator, tariff, split, want, reserve, at };
        handle.account_command(account.clone(), command).await.expect("the account has the money");
        Self { account, session, sequence: 0 }
    }

    fn reading(&mut self, wh: i64) -> (SessionId, u32, [WattHours; PERIODS], Priced) {
        self.sequence += 1;
        let by_period = [0, 0, wh, 0].map(WattHours);
        let price = catalogue().tariffs[&id("t1")].price(&by_period, &MeteredTime::NONE);
        (self.session.clone(), self.sequence, by_period, price)
    }

    pub async fn debit(&mut self, handle: &NodeHandle, wh: i64, at: Timestamp) -> Result<AccountAnswer, CallError> {
        let (session, sequence, by_period, cumulative) = self.reading(wh);
        let (meter, hold_target) = (WattHours(wh), Money(6_000));
        let command = AccountCommand::Debit {
            session,
            sequence,
            meter,
            by_period,
            time: MeteredTime::NONE,
            cumulative,
            hold_target,
            at,
        };
        handle.account_command(self.account.clone(), command).await
    }

    pub async fn settle(&mut self, handle: &NodeHandle, wh: i64, at: Timestamp) -> Result<AccountAnswer, CallError> {
        let (session, sequence, by_period, cumulative) = self.reading(wh);
        let meter = WattHours(wh);
        let command =
            AccountCommand::Settle { session, sequence, meter, by_period, time: MeteredTime::NONE, cumulative, at };
        handle.account_command(self.account.clone(), command).await
    }
}

/// A gateway driven by hand.
pub struct TestGateway {
    pub id: GatewayId,
    keys: Keyring,
    pub key_epoch: u32,
    shard: u16,
    sink: Arc<dyn LinkSink>,
    link: Arc<RecordingLink>,
    pub boot: u32,
    seqs: BTreeMap<Stream, u64>,
    events: u64,
    nonce: u64,
    pub down: Vec<Down>,
}

impl TestGateway {
    pub fn new(node: &Node, link: Arc<RecordingLink>, enrolment: &Enrolment) -> Self {
        let mut root = [0u8; 32];
        for (byte, pair) in root.iter_mut().zip(enrolment.key.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex");
        }
        let key = GatewayKey { root, key_epoch: enrolment.key_epoch };
        let mut gateway = Self {
            key_epoch: enrolment.key_epoch,
            keys: Keyring::new(&enrolment.gateway, &key),
            id: enrolment.gateway.clone(),
            shard: u16::from_str_radix(&enrolment.shard, 16).expect("hex"),
            sink: node.link_sink(),
            link,
            boot: 1,
            seqs: BTreeMap::new(),
            events: 0,
            nonce: 0,
            down: Vec::new(),
        };
        // A gateway beats as soon as it is connected.
        gateway.beat(Beat::default());
        gateway
    }

    /// The same gateway, connected to a node that was started again.
    pub fn reconnect(&mut self, node: &Node, link: Arc<RecordingLink>) {
        self.reconnect_silently(node, link);
        self.beat(Beat::default());
    }

    /// The same, before its first beat.
    pub fn reconnect_silently(&mut self, node: &Node, link: Arc<RecordingLink>) {
        self.sink = node.link_sink();
        self.link = link;
        self.down.clear();
    }

    pub fn seal(&self, stream: Stream, boot: u32, seq: u64, batch: &UpBatch) -> Vec<u8> {
        let items = u16::try_from(batch.items()).expect("a small batch");
        let header = Header { items, boot, seq, ..Header::default() };
        self.keys.seal_up(stream, header, &wire::encode_up(batch)).expect("seals")
    }

    pub fn publish(&self, stream: Stream, payload: Vec<u8>) {
        let topic = topic::up(&self.id, self.shard, stream);
        self.sink.on_event(LinkEvent::Message { topic, payload: payload.into() });
    }

    pub fn publish_on(&self, topic: &str, payload: Vec<u8>) {
        self.sink.on_event(LinkEvent::Message { topic: topic.to_owned(), payload: payload.into() });
    }

    pub fn send(&mut self, stream: Stream, batch: &UpBatch) -> (u64, Vec<u8>) {
        let seq = self.seqs.entry(stream).or_default();
        *seq += 1;
        let seq = *seq;
        let sealed = self.seal(stream, self.boot, seq, batch);
        self.publish(stream, sealed.clone());
        (seq, sealed)
    }

    pub fn event(&mut self, event: GatewayEvent) -> (u64, Vec<u8>) {
        self.events += 1;
        self.send(Stream::Events, &UpBatch::Events(vec![NumberedEvent { number: self.events, event }]))
    }

    pub fn samples(&mut self, child: u16, first_number: u64, samples: Vec<Sample>) -> u64 {
        let runs = vec![SampleRun { child, first_number, samples }];
        self.send(Stream::Fast, &UpBatch::Samples { runs, gaps: Vec::new() }).0
    }

    pub fn beat(&mut self, mut beat: Beat) -> u64 {
        self.nonce += 1;
        beat.nonce = self.nonce;
        if beat.mono == Mono(0) {
            beat.mono = Mono(self.nonce);
        }
        self.send(Stream::Beat, &UpBatch::Beat(beat));
        self.nonce
    }

    pub fn receive(&mut self) {
        let topic = topic::down(&self.id, self.shard);
        for (to, payload) in self.link.take() {
            if to == topic {
                let opened = self.keys.open_down(&payload).expect("sealed for this gateway");
                self.down.push(wire::decode_down(&opened.plain).expect("a message"));
            }
        }
    }

    /// Waits until a message down fits.
    pub async fn until<T>(&mut self, what: &str, pick: impl Fn(&Down) -> Option<T>) -> T {
        for _ in 0..2_000 {
            self.receive();
            if let Some(found) = self.down.iter().find_map(&pick) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no {what} came; so far: {:#?}", self.down);
    }

    pub async fn until_acked(&mut self, stream: Stream, seq: u64) {
        let boot = BootId::new(self.key_epoch, self.boot);
        self.until(&format!("acknowledgement of {stream} {seq}"), move |down| match down {
            Down::Ack(ack) if ack.stream == stream && ack.boot == boot && ack.upto_seq >= seq => Some(()),
            _ => None,
        })
        .await;
    }
}

pub fn sample(at: Timestamp, register: i64) -> Sample {
    Sample {
        at,
        voltage_dv: 4_000,
        current_da: 1_500,
        temperature_dc: 250,
        soc_permille: 500,
        power: Watts(60_000),
        register: WattHours(register),
    }
}

pub fn command(down: &Down) -> Option<DownCommand> {
    match down {
        Down::Commands(commands) => commands.first().cloned(),
        _ => None,
    }
}

pub fn start_requested(account: &str, request: u64) -> GatewayEvent {
    let (account, connector) = (id(account), ConnectorNo(1));
    GatewayEvent::StartRequested { child: 0, connector, account, request, at: now() }
}

/// Brings a session up to the point where energy flows.
pub async fn start(gateway: &mut TestGateway, account: &str, register: i64) -> SessionId {
    let (seq, _) = gateway.event(start_requested(account, 1));
    gateway.until_acked(Stream::Events, seq).await;
    let start = gateway.until("start command", command).await;
    let Action::Start { session, allowance, .. } = start.action.clone() else { panic!("{start:?}") };
    assert!(allowance > WattHours::ZERO);
    gateway.event(GatewayEvent::CommandResult { child: 0, command: start.id, outcome: CommandEnd::Done, at: now() });
    let (child, register) = (0, WattHours(register));
    let started = GatewayEvent::SessionStarted { child, session: session.clone(), register, at: now() };
    let (seq, _) = gateway.event(started);
    gateway.until_acked(Stream::Events, seq).await;
    session
}

pub async fn record_of(node: &Node, session: &SessionId) -> ChargeRecord {
    for _ in 0..2_000 {
        let query = RecordQuery { session: Some(session.clone()), limit: 10, ..RecordQuery::default() };
        let records = node.handle().charge_records(query).await.expect("records");
        if let Some(stored) = records.into_iter().next() {
            return stored.record;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no charge record for {session}");
}
