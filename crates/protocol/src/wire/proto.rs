//! The messages as prost sees them. Numbers of fields never change their meaning; see `docs/reference/wire.md`.

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Up {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(oneof = "UpBody", tags = "2, 3, 4")]
    pub body: Option<UpBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum UpBody {
    #[prost(message, tag = "2")]
    Events(Events),
    #[prost(message, tag = "3")]
    Samples(Samples),
    #[prost(message, tag = "4")]
    Beat(Beat),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Samples {
    #[prost(sint64, tag = "1")]
    pub base_ms: i64,
    #[prost(uint32, repeated, tag = "2")]
    pub child: Vec<u32>,
    #[prost(uint64, repeated, tag = "3")]
    pub first_number: Vec<u64>,
    #[prost(uint32, repeated, tag = "4")]
    pub count: Vec<u32>,
    #[prost(sint64, repeated, tag = "5")]
    pub at_ms: Vec<i64>,
    #[prost(sint64, repeated, tag = "6")]
    pub voltage_dv: Vec<i64>,
    #[prost(sint64, repeated, tag = "7")]
    pub current_da: Vec<i64>,
    #[prost(sint64, repeated, tag = "8")]
    pub temperature_dc: Vec<i64>,
    #[prost(sint64, repeated, tag = "9")]
    pub soc_permille: Vec<i64>,
    #[prost(sint64, repeated, tag = "10")]
    pub power_w: Vec<i64>,
    #[prost(sint64, repeated, tag = "11")]
    pub register_wh: Vec<i64>,
    #[prost(message, repeated, tag = "12")]
    pub gaps: Vec<Gap>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Gap {
    #[prost(uint32, tag = "1")]
    pub child: u32,
    #[prost(uint64, tag = "2")]
    pub first: u64,
    #[prost(uint64, tag = "3")]
    pub last: u64,
    #[prost(uint32, tag = "4")]
    pub reason: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Events {
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(uint32, tag = "2")]
    pub child: u32,
    #[prost(sint64, tag = "3")]
    pub at_ms: i64,
    #[prost(oneof = "EventBody", tags = "4, 5, 6, 7, 8, 9, 10, 11")]
    pub body: Option<EventBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum EventBody {
    #[prost(message, tag = "4")]
    StartRequested(StartRequested),
    #[prost(message, tag = "5")]
    SessionStarted(SessionStarted),
    #[prost(message, tag = "6")]
    SessionStopped(SessionStopped),
    #[prost(message, tag = "7")]
    CommandResult(CommandResult),
    #[prost(message, tag = "8")]
    Gap(Gap),
    #[prost(message, tag = "9")]
    Fault(Fault),
    #[prost(message, tag = "10")]
    StatusChanged(StatusChanged),
    #[prost(message, tag = "11")]
    FlowChanged(FlowChanged),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StartRequested {
    #[prost(uint32, tag = "1")]
    pub connector: u32,
    #[prost(string, tag = "2")]
    pub account: String,
    #[prost(uint64, tag = "3")]
    pub request: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionStarted {
    #[prost(string, tag = "1")]
    pub session: String,
    #[prost(sint64, tag = "2")]
    pub register_wh: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionStopped {
    #[prost(string, tag = "1")]
    pub session: String,
    #[prost(sint64, tag = "2")]
    pub register_wh: i64,
    #[prost(uint32, tag = "3")]
    pub reason: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CommandResult {
    #[prost(string, tag = "1")]
    pub command: String,
    #[prost(uint32, tag = "2")]
    pub end: u32,
    #[prost(string, tag = "3")]
    pub refusal: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Fault {
    #[prost(string, tag = "1")]
    pub code: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StatusChanged {
    #[prost(bool, tag = "1")]
    pub plugged: bool,
    #[prost(bool, tag = "2")]
    pub available: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlowChanged {
    #[prost(string, tag = "1")]
    pub session: String,
    #[prost(uint32, tag = "2")]
    pub flow: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Cursor {
    #[prost(uint32, tag = "1")]
    pub stream: u32,
    #[prost(uint32, tag = "2")]
    pub boot: u32,
    #[prost(uint64, tag = "3")]
    pub seq: u64,
    #[prost(uint32, tag = "4")]
    pub key_epoch: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Beat {
    #[prost(uint64, tag = "1")]
    pub mono_ms: u64,
    #[prost(uint64, tag = "2")]
    pub nonce: u64,
    #[prost(uint64, tag = "3")]
    pub epoch_seen: u64,
    #[prost(uint64, tag = "4")]
    pub applied_grant_seq: u64,
    #[prost(bool, tag = "5")]
    pub local: bool,
    #[prost(message, repeated, tag = "6")]
    pub acked: Vec<Cursor>,
    #[prost(message, repeated, tag = "7")]
    pub floors: Vec<Cursor>,
    #[prost(message, repeated, tag = "8")]
    pub chargers: Vec<BeatCharger>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BeatCharger {
    #[prost(uint32, tag = "1")]
    pub child: u32,
    #[prost(sint64, tag = "2")]
    pub granted_w: i64,
    #[prost(uint32, tag = "3")]
    pub lease_left_ms: u32,
    #[prost(sint64, tag = "4")]
    pub demand_w: i64,
    #[prost(sint64, tag = "5")]
    pub power_w: i64,
    #[prost(sint64, tag = "6")]
    pub register_wh: i64,
    #[prost(string, tag = "7")]
    pub session: String,
    #[prost(bool, tag = "8")]
    pub charging: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Down {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(oneof = "DownBody", tags = "2, 3, 4, 5, 6, 7")]
    pub body: Option<DownBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum DownBody {
    #[prost(message, tag = "2")]
    Ack(Ack),
    #[prost(message, tag = "3")]
    Resume(Resume),
    #[prost(message, tag = "4")]
    Grants(Grants),
    #[prost(message, tag = "5")]
    Commands(Commands),
    #[prost(message, tag = "6")]
    Deny(Deny),
    #[prost(message, tag = "7")]
    Notice(Notice),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ack {
    #[prost(uint32, tag = "1")]
    pub stream: u32,
    #[prost(uint32, tag = "2")]
    pub boot: u32,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub upto_seq: u64,
    #[prost(message, repeated, tag = "5")]
    pub refused: Vec<Refusal>,
    #[prost(uint32, tag = "6")]
    pub credit: u32,
    #[prost(uint32, tag = "7")]
    pub key_epoch: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Refusal {
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    #[prost(string, tag = "2")]
    pub reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resume {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(message, repeated, tag = "2")]
    pub cursors: Vec<Cursor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Grants {
    #[prost(uint64, tag = "1")]
    pub answers_nonce: u64,
    #[prost(uint32, tag = "2")]
    pub boot: u32,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    #[prost(uint64, tag = "4")]
    pub seq: u64,
    #[prost(uint32, tag = "5")]
    pub lease_ms: u32,
    #[prost(message, repeated, tag = "6")]
    pub entries: Vec<GrantEntry>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct GrantEntry {
    #[prost(uint32, tag = "1")]
    pub child: u32,
    #[prost(sint64, tag = "2")]
    pub w: i64,
    #[prost(sint64, optional, tag = "3")]
    pub allowance_wh: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Commands {
    #[prost(message, repeated, tag = "1")]
    pub commands: Vec<Command>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Command {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(uint32, tag = "2")]
    pub child: u32,
    #[prost(uint64, tag = "3")]
    pub answers_nonce: u64,
    #[prost(uint32, tag = "9")]
    pub boot: u32,
    #[prost(uint32, tag = "10")]
    pub within_ms: u32,
    #[prost(oneof = "ActionBody", tags = "4, 5, 6, 7, 8")]
    pub action: Option<ActionBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum ActionBody {
    #[prost(message, tag = "4")]
    Start(Start),
    #[prost(message, tag = "5")]
    Stop(Stop),
    #[prost(message, tag = "6")]
    Reset(Empty),
    #[prost(message, tag = "7")]
    Unlock(Unlock),
    #[prost(message, tag = "8")]
    SetAvailability(SetAvailability),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Start {
    #[prost(string, tag = "1")]
    pub session: String,
    #[prost(uint32, tag = "2")]
    pub connector: u32,
    #[prost(sint64, tag = "3")]
    pub allowance_wh: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Stop {
    #[prost(string, tag = "1")]
    pub session: String,
    #[prost(uint32, tag = "2")]
    pub reason: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Unlock {
    #[prost(uint32, tag = "1")]
    pub connector: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct SetAvailability {
    #[prost(bool, tag = "1")]
    pub available: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Deny {
    #[prost(uint32, tag = "1")]
    pub child: u32,
    #[prost(uint64, tag = "2")]
    pub request: u64,
    #[prost(string, tag = "3")]
    pub code: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Notice {
    #[prost(string, tag = "1")]
    pub code: String,
    #[prost(string, tag = "2")]
    pub detail: String,
    #[prost(uint32, tag = "3")]
    pub revoked_upto: u32,
}
