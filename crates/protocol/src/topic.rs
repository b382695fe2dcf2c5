//! Topics: `cp/v1/{tenant}/{shard}/{gateway}/up/{stream}` and `cp/v1/{tenant}/{shard}/{gateway}/down`.
//!
//! The shard is the station shard in four lower-case hex digits, so the owner of a shard subscribes to exactly
//! what it owns. A topic is only an address: who really speaks is known after the envelope has been opened.

use crate::limits::MAX_TOPIC_LEN;
use crate::message::Stream;
use chargeplane_domain::ids::{GatewayId, IdError, TenantId};
use std::fmt;

/// First two levels of every topic.
pub const PREFIX: &str = "cp/v1";

/// Where something was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// From a gateway.
    Up {
        /// The gateway.
        gateway: GatewayId,
        /// Its station's shard.
        shard: u16,
        /// The stream.
        stream: Stream,
    },
    /// To a gateway.
    Down {
        /// The gateway.
        gateway: GatewayId,
        /// Its station's shard.
        shard: u16,
    },
}

/// Why a text is not a topic of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than [`MAX_TOPIC_LEN`].
    #[error("topic has {len} bytes, more than {MAX_TOPIC_LEN}")]
    Length {
        /// Its length.
        len: usize,
    },
    /// Not `cp/v1/...`.
    #[error("topic does not begin with {PREFIX}/")]
    Prefix,
    /// Not the right number of levels, or the wrong fixed words.
    #[error("topic is not {PREFIX}/TENANT/SHARD/GATEWAY/up/STREAM or .../down")]
    Shape,
    /// The shard is not four lower-case hex digits.
    #[error("the shard in the topic is not four lower-case hex digits")]
    Shard,
    /// No such stream.
    #[error("no such stream")]
    Stream,
    /// The tenant or the gateway is not an id.
    #[error("topic: {0}")]
    Id(#[from] IdError),
}

impl TopicError {
    /// A stable code for counters.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "topic_length",
            Self::Prefix => "topic_prefix",
            Self::Shape => "topic_shape",
            Self::Shard => "topic_shard",
            Self::Stream => "topic_stream",
            Self::Id(_) => "topic_id",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { gateway, shard, stream } => {
                write!(f, "{PREFIX}/{}/{shard:04x}/{}/up/{stream}", gateway.tenant(), gateway.local())
            }
            Self::Down { gateway, shard } => {
                write!(f, "{PREFIX}/{}/{shard:04x}/{}/down", gateway.tenant(), gateway.local())
            }
        }
    }
}

/// The topic of a gateway's stream.
pub fn up(gateway: &GatewayId, shard: u16, stream: Stream) -> String {
    Topic::Up { gateway: gateway.clone(), shard, stream }.to_string()
}

/// The topic a gateway listens on.
pub fn down(gateway: &GatewayId, shard: u16) -> String {
    Topic::Down { gateway: gateway.clone(), shard }.to_string()
}

/// What the owner of a station shard subscribes to, for all tenants.
pub fn shard_filter(shard: u16) -> String {
    format!("{PREFIX}/+/{shard:04x}/+/up/+")
}

/// The MQTT client id of a gateway.
pub fn client_id(gateway: &GatewayId) -> String {
    format!("{}:{}", gateway.tenant(), gateway.local())
}

/// The MQTT user name of a gateway.
pub fn username(gateway: &GatewayId) -> String {
    gateway.as_str().to_owned()
}

/// Reads a topic.
pub fn parse(text: &str) -> Result<Topic, TopicError> {
    if text.len() > MAX_TOPIC_LEN {
        return Err(TopicError::Length { len: text.len() });
    }
    let rest = text.strip_prefix(PREFIX).and_then(|r| r.strip_prefix('/')).ok_or(TopicError::Prefix)?;
    let mut levels = rest.split('/');
    let (Some(tenant), Some(shard), Some(gateway), Some(way)) =
        (levels.next(), levels.next(), levels.next(), levels.next())
    else {
        return Err(TopicError::Shape);
    };
    let last = levels.next();
    if levels.next().is_some() {
        return Err(TopicError::Shape);
    }
    let shard = parse_shard(shard)?;
    let gateway = GatewayId::new(&TenantId::new(tenant)?, gateway)?;
    match (way, last) {
        ("up", Some(stream)) => {
            let stream = Stream::from_name(stream).ok_or(TopicError::Stream)?;
            Ok(Topic::Up { gateway, shard, stream })
        }
        ("down", None) => Ok(Topic::Down { gateway, shard }),
        _ => Err(TopicError::Shape),
    }
}

fn parse_shard(text: &str) -> Result<u16, TopicError> {
    let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != 4 || !text.bytes().all(digits) {
        return Err(TopicError::Shard);
    }
    u16::from_str_radix(text, 16).map_err(|_| TopicError::Shard)
}

#[cfg(test)]
mod tests;
