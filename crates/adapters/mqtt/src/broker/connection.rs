//! One client's connection: between its socket and rumqttd's router.
//!
//! rumqttd has a server of its own, which this replaces. It leaves Nagle's algorithm on, which
//! costs 40 ms for each small message; it closes instead of refusing a wrong password; it speaks
//! one protocol version a port; it neither reads while it writes, so two full sockets wait for each
//! other; and it can end another connection than the one that was lost.
//!
//! Sessions are always clean here, and wills are not kept.

use std::future::ready;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::BytesMut;
use rumqttd::local::{LinkError, LinkRx, LinkTx};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{
    self, ConnAck, ConnAckProperties, Connect, ConnectReturnCode, Disconnect, DisconnectReasonCode, Login, Packet,
    Protocol,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::flow::{Flow, batch_bytes};
use super::{ADMINISTRATIVE_ACTION, Gate, Rights};
use crate::MAX_MQTT_PACKET;

/// Registers a client id with the router; nothing when the router is full or dead. A closure because
/// rumqttd does not export the type of the router's channel.
pub(super) type Register = dyn Fn(&str) -> Option<(LinkTx, LinkRx)> + Send + Sync;

/// What the connections of one generation of the broker share.
pub(super) struct Common {
    pub(super) gate: Arc<Gate>,
    pub(super) register: Box<Register>,
    pub(super) flow: Flow,
}

/// How long a socket may stay open without a CONNECT packet.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Size of a read buffer. Payloads stay slices of it for as long as the router keeps them, so it is
/// used up before there is a new one: else each small message would keep a whole buffer alive.
const READ_ROOM: usize = 16 << 10;

/// A read buffer with less room than this is used up.
const LEAST_ROOM: usize = 1 << 10;

/// Notifications of the router are written together up to this many bytes.
const WRITE_BURST: usize = 64 << 10;

/// Why a connection ended, other than by the client's DISCONNECT.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] protocol::Error),
    #[error("the client closed the connection")]
    Closed,
    #[error("nothing was heard within the keep-alive")]
    Silent,
    #[error("the first packet is not a CONNECT")]
    NoConnect,
    #[error("packet type {0} is not for a client to send")]
    WrongWay(u8),
    #[error("refused: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("{0:?} is not this client's")]
    Forbidden(String),
    #[error("the client's credentials ended")]
    CutOff,
    #[error("the router let go of the connection: {0}")]
    Router(String),
}

impl From<LinkError> for Lost {
    fn from(error: LinkError) -> Self {
        Self::Router(error.to_string())
    }
}

/// Serves a client from its CONNECT to the end of its connection.
pub(super) async fn serve(stream: TcpStream, common: Arc<Common>) -> Result<(), Lost> {
    stream.set_nodelay(true)?;
    let (socket, mut writer) = stream.into_split();
    let mut reader = Reader { socket, buffer: BytesMut::with_capacity(READ_ROOM), version: Version::V5 };
    let opening = timeout(CONNECT_PATIENCE, reader.connect());
    let (connect, login) = opening.await.map_err(|_| Lost::NoConnect)??;
    let version = reader.version;

    let (_noted, cut_off) = common.gate.connections.note(&connect.client_id);
    let admitted = admit(&common.gate, &connect, login).await;
    // Registering waits for the router's thread.
    let registered = match admitted {
        Ok(rights) => tokio::task::block_in_place(|| (common.register)(&connect.client_id))
            .map(|(sender, receiver)| (rights, sender, receiver))
            .ok_or(ConnectReturnCode::ServiceUnavailable),
        Err(refusal) => Err(refusal),
    };
    let (rights, sender, receiver) = match registered {
        Ok(link) => link,
        Err(code) => {
            writer.write_all(&connack(version, code)?).await?;
            return Err(Lost::Refused(code));
        }
    };
    let mut farewell = Farewell(sender);
    writer.write_all(&connack(version, ConnectReturnCode::Success)?).await?;

    let patience = Duration::from_secs(u64::from(connect.keep_alive)).mul_f32(1.5);
    let writing = AtomicBool::new(false);
    let ended = tokio::select! {
        ended = read_loop(&mut reader, &mut farewell.0, (&rights, &common.flow), patience) => ended,
        ended = write_loop(version, receiver, &mut writer, &common.flow, &writing) => ended,
        Ok(()) = cut_off => Err(Lost::CutOff),
    };
    let counters = &common.gate.counters;
    let reason = match &ended {
        Err(Lost::Protocol(error)) => Some(counters.refuse_packet(&connect.client_id, error)),
        Err(Lost::Forbidden(topic)) => Some(counters.forbid(&connect.client_id, topic)),
        Err(Lost::CutOff) => Some(ADMINISTRATIVE_ACTION),
        _ => None,
    };
    if let Some(reason) = reason {
        // Behind a packet that went out by half, a goodbye would be read as its rest.
        if !writing.load(Ordering::Relaxed) {
            writer.write_all(&goodbye(version, reason)).await?;
        }
    }
    ended
}

/// The client learns why it is let go, where its version of the protocol has words for it. Written by hand:
/// rumqttd leaves the reason out when there are no properties.
fn goodbye(version: Version, reason: u8) -> Vec<u8> {
    match version {
        Version::V4 => Vec::new(),
        Version::V5 => vec![0xe0, 2, reason, 0],
    }
}

async fn admit(gate: &Arc<Gate>, connect: &Connect, login: Option<Login>) -> Result<Rights, ConnectReturnCode> {
    if connect.keep_alive == 0 {
        // Without one a half-open connection would stay for ever.
        return Err(ConnectReturnCode::NotAuthorized);
    }
    let gate = gate.clone();
    let client_id = connect.client_id.clone();
    let login = login.unwrap_or(Login { username: String::new(), password: String::new() });
    let asked = tokio::task::spawn_blocking(move || gate.admits(&client_id, &login.username, &login.password));
    // A callback that panics refuses.
    asked.await.ok().flatten().ok_or(ConnectReturnCode::BadUserNamePassword)
}

fn connack(version: Version, code: ConnectReturnCode) -> Result<BytesMut, protocol::Error> {
    let properties = ConnAckProperties {
        session_expiry_interval: Some(0),
        max_packet_size: u32::try_from(MAX_MQTT_PACKET).ok(),
        ..ConnAckProperties::default()
    };
    let mut bytes = BytesMut::new();
    version.write(Packet::ConnAck(ConnAck { session_present: false, code }, Some(properties)), &mut bytes)?;
    Ok(bytes)
}

#[derive(Debug, Clone, Copy)]
enum Version {
    V4,
    V5,
}

impl Version {
    fn read(self, bytes: &mut BytesMut) -> Result<Packet, protocol::Error> {
        match self {
            Self::V4 => V4.read_mut(bytes, MAX_MQTT_PACKET),
            Self::V5 => V5.read_mut(bytes, MAX_MQTT_PACKET),
        }
    }

    fn write(self, packet: Packet, bytes: &mut BytesMut) -> Result<(), protocol::Error> {
        match (self, packet) {
            (Self::V5, packet) => V5.write(packet, bytes).map(drop),
            // MQTT 3.1.1 has no properties, and its server says goodbye by closing.
            (Self::V4, Packet::Publish(publish, _)) => V4.write(Packet::Publish(publish, None), bytes).map(drop),
            (Self::V4, Packet::Disconnect(..)) => Ok(()),
            (Self::V4, packet) => V4.write(packet, bytes).map(drop),
        }
    }
}

struct Reader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    version: Version,
}

impl Reader {
    /// Reads the CONNECT and learns the protocol version from it.
    async fn connect(&mut self) -> Result<(Connect, Option<Login>), Lost> {
        loop {
            // Both versions frame alike; the wrong one has then consumed the packet.
            let mut copy = self.buffer.clone();
            match V5.read_mut(&mut copy, MAX_MQTT_PACKET) {
                Err(protocol::Error::InvalidProtocolLevel(4)) => self.version = Version::V4,
                Err(protocol::Error::InsufficientBytes(_)) => {
                    self.fill().await?;
                    continue;
                }
                _ => {}
            }
            return match self.version.read(&mut self.buffer)? {
                Packet::Connect(connect, _, _, _, login) => Ok((connect, login)),
                _ => Err(Lost::NoConnect),
            };
        }
    }

    /// The next packet that is already here, if any.
    fn buffered(&mut self) -> Result<Option<Packet>, Lost> {
        if let Some(first) = self.buffer.first() {
            // The codecs panic on packets that only a server sends.
            let kind = first >> 4;
            if !matches!(kind, 3..=8 | 10 | 12 | 14) {
                return Err(Lost::WrongWay(kind));
            }
        }
        match self.version.read(&mut self.buffer) {
            Ok(packet) => Ok(Some(packet)),
            Err(protocol::Error::InsufficientBytes(missing)) => {
                if self.buffer.capacity() - self.buffer.len() < missing.max(LEAST_ROOM) {
                    self.buffer.reserve(missing.max(READ_ROOM));
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn fill(&mut self) -> Result<(), Lost> {
        match self.socket.read_buf(&mut self.buffer).await? {
            0 => Err(Lost::Closed),
            _ => Ok(()),
        }
    }
}

/// Socket to router: all packets of one read go over together.
async fn read_loop(
    reader: &mut Reader,
    sender: &mut LinkTx,
    (rights, flow): (&Rights, &Flow),
    patience: Duration,
) -> Result<(), Lost> {
    loop {
        let mut last = None;
        let mut batches = 0;
        while let Some(packet) = reader.buffered()? {
            if let Some(topic) = rights.forbidden(&packet) {
                return Err(Lost::Forbidden(topic));
            }
            match &packet {
                Packet::Publish(publish, _) => batches += batch_bytes(publish),
                // Passed on by the farewell, after what came before it.
                Packet::Disconnect(..) => {
                    if let Some(previous) = last.take() {
                        sender.send(previous).await?;
                    }
                    return Ok(());
                }
                _ => {}
            }
            if let Some(previous) = last.replace(packet) {
                sender.buffer().push_back(previous);
            }
        }
        flow.published(batches);
        if let Some(last) = last {
            sender.send(last).await?;
        }
        // Only who published batches waits: the reader of batches confirms them over its own.
        if batches > 0 {
            flow.room().await;
        }
        timeout(patience, reader.fill()).await.map_err(|_| Lost::Silent)??;
    }
}

/// Router to socket: what is there goes out in one write.
async fn write_loop(
    version: Version,
    mut receiver: LinkRx,
    socket: &mut OwnedWriteHalf,
    flow: &Flow,
    writing: &AtomicBool,
) -> Result<(), Lost> {
    let mut bytes = BytesMut::with_capacity(READ_ROOM);
    loop {
        let mut next = receiver.next().await?;
        let mut paused = false;
        let mut batches = 0;
        loop {
            if let Some(notification) = next {
                match Option::<Packet>::from(notification) {
                    Some(packet) => {
                        if let Packet::Publish(publish, _) = &packet {
                            batches += batch_bytes(publish);
                        }
                        version.write(packet, &mut bytes)?;
                    }
                    None => paused = true,
                }
            }
            if bytes.len() >= WRITE_BURST {
                break;
            }
            tokio::select! {
                biased;
                more = receiver.next() => next = more?,
                () = ready(()) => break,
            }
        }
        writing.store(true, Ordering::Relaxed);
        socket.write_all(&bytes).await?;
        writing.store(false, Ordering::Relaxed);
        bytes.clear();
        flow.delivered(batches);
        if paused {
            receiver.wake().await?;
        }
    }
}

/// Tells the router that the client is gone, however its connection ended.
///
/// It does so with a packet in this connection's own buffer. When the router let go of the
/// connection before and gave its number to another, nobody reads that buffer.
struct Farewell(LinkTx);

impl Drop for Farewell {
    fn drop(&mut self) {
        let goodbye = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
        let send = pin!(self.0.send(Packet::Disconnect(goodbye, None)));
        // Never pending: it waits, if at all, for room in the router's channel. A dead router needs
        // no goodbye.
        let _ = send.poll(&mut Context::from_waker(Waker::noop()));
    }
}
