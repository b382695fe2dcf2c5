//! Messages to gateways.

use super::proto::{self, ActionBody, DownBody};
use super::up::{connector, reason_from_proto, reason_to_proto};
use super::watts_from_zero;
use super::{WireError, at_most, child, clip, cursor_to_proto, cursors, energy, id, number, stream, text};
use crate::limits::{MAX_ITEMS, MAX_LEASE_MS, MAX_WITHIN_MS};
use crate::message::{Ack, Deadline, Down, DownCommand, GrantEntry, Grants, Notice, Refusal, Resume};
use chargeplane_domain::command::Action;
use chargeplane_domain::gateway::BootId;

pub(super) fn to_proto(message: &Down) -> DownBody {
    match message {
        Down::Ack(ack) => DownBody::Ack(proto::Ack {
            stream: u32::from(ack.stream.as_u8()),
            boot: ack.boot.boot,
            key_epoch: ack.boot.key_epoch,
            epoch: ack.epoch,
            upto_seq: ack.upto_seq,
            refused: ack
                .refused
                .iter()
                .map(|refusal| proto::Refusal { seq: refusal.seq, reason: clip(&refusal.reason) })
                .collect(),
            credit: ack.credit,
        }),
        Down::Resume(resume) => DownBody::Resume(proto::Resume {
            epoch: resume.epoch,
            cursors: resume.cursors.iter().map(cursor_to_proto).collect(),
        }),
        Down::Grants(grants) => DownBody::Grants(grants_to_proto(grants)),
        Down::Commands(commands) => {
            DownBody::Commands(proto::Commands { commands: commands.iter().map(command_to_proto).collect() })
        }
        Down::Deny { child, request, code } => {
            DownBody::Deny(proto::Deny { child: u32::from(*child), request: *request, code: clip(code) })
        }
        Down::Notice(notice) => {
            let Notice { code, detail, revoked_upto } = notice;
            DownBody::Notice(proto::Notice { code: clip(code), detail: clip(detail), revoked_upto: *revoked_upto })
        }
    }
}

pub(super) fn from_proto(body: DownBody) -> Result<Down, WireError> {
    match body {
        DownBody::Ack(ack) => ack_from_proto(ack),
        DownBody::Resume(resume) => {
            Ok(Down::Resume(Resume { epoch: resume.epoch, cursors: cursors("cursors", resume.cursors)? }))
        }
        DownBody::Grants(grants) => grants_from_proto(grants),
        DownBody::Commands(commands) => {
            at_most("commands", commands.commands.len(), MAX_ITEMS)?;
            let known = commands.commands.into_iter().filter_map(|c| command_from_proto(c).transpose());
            Ok(Down::Commands(known.collect::<Result<_, _>>()?))
        }
        DownBody::Deny(deny) => Ok(Down::Deny {
            child: child(deny.child)?,
            request: number("request", deny.request)?,
            code: text("code", deny.code)?,
        }),
        DownBody::Notice(notice) => Ok(Down::Notice(Notice {
            code: text("code", notice.code)?,
            detail: text("detail", notice.detail)?,
            revoked_upto: notice.revoked_upto,
        })),
    }
}

fn ack_from_proto(from: proto::Ack) -> Result<Down, WireError> {
    at_most("refusals", from.refused.len(), MAX_ITEMS)?;
    let refused = from
        .refused
        .into_iter()
        .map(|refusal| Ok(Refusal { seq: refusal.seq, reason: text("reason", refusal.reason)? }))
        .collect::<Result<_, WireError>>()?;
    Ok(Down::Ack(Ack {
        stream: stream(from.stream)?,
        boot: BootId::new(from.key_epoch, from.boot),
        epoch: from.epoch,
        upto_seq: from.upto_seq,
        refused,
        credit: from.credit,
    }))
}

fn grants_to_proto(grants: &Grants) -> proto::Grants {
    let entry = |entry: &GrantEntry| proto::GrantEntry {
        child: u32::from(entry.child),
        w: entry.w.0,
        allowance_wh: entry.allowance.map(|wh| wh.0),
    };
    proto::Grants {
        answers_nonce: grants.answers_nonce,
        boot: grants.boot,
        epoch: grants.epoch,
        seq: grants.seq,
        lease_ms: grants.lease_ms,
        entries: grants.entries.iter().map(entry).collect(),
    }
}

fn grants_from_proto(from: proto::Grants) -> Result<Down, WireError> {
    at_most("entries", from.entries.len(), MAX_ITEMS)?;
    if from.lease_ms > MAX_LEASE_MS {
        return Err(WireError::Range { what: "lease_ms" });
    }
    let entry = |entry: proto::GrantEntry| {
        Ok(GrantEntry {
            child: child(entry.child)?,
            w: watts_from_zero("w", entry.w)?,
            allowance: entry.allowance_wh.map(|wh| energy("allowance_wh", wh)).transpose()?,
        })
    };
    Ok(Down::Grants(Grants {
        answers_nonce: from.answers_nonce,
        boot: from.boot,
        epoch: from.epoch,
        seq: from.seq,
        lease_ms: from.lease_ms,
        entries: from.entries.into_iter().map(entry).collect::<Result<_, WireError>>()?,
    }))
}

fn command_to_proto(command: &DownCommand) -> proto::Command {
    let action = match &command.action {
        Action::Start { session, connector, allowance } => ActionBody::Start(proto::Start {
            session: session.to_string(),
            connector: u32::from(connector.0),
            allowance_wh: allowance.0,
        }),
        Action::Stop { session, reason } => {
            ActionBody::Stop(proto::Stop { session: session.to_string(), reason: reason_to_proto(*reason) })
        }
        Action::Reset => ActionBody::Reset(proto::Empty {}),
        Action::Unlock { connector } => ActionBody::Unlock(proto::Unlock { connector: u32::from(connector.0) }),
        Action::SetAvailability { available } => {
            ActionBody::SetAvailability(proto::SetAvailability { available: *available })
        }
    };
    proto::Command {
        id: command.id.to_string(),
        child: u32::from(command.child),
        answers_nonce: command.deadline.answers_nonce,
        boot: command.deadline.boot,
        within_ms: command.deadline.within_ms,
        action: Some(action),
    }
}

/// `None` for an action that this version does not know: the command ends at its deadline, unexecuted.
fn command_from_proto(from: proto::Command) -> Result<Option<DownCommand>, WireError> {
    let Some(action) = from.action else {
        return Ok(None);
    };
    let action = match action {
        ActionBody::Start(start) => Action::Start {
            session: id("session", &start.session)?,
            connector: connector(start.connector)?,
            allowance: energy("allowance_wh", start.allowance_wh)?,
        },
        ActionBody::Stop(stop) => {
            Action::Stop { session: id("session", &stop.session)?, reason: reason_from_proto(stop.reason) }
        }
        ActionBody::Reset(_) => Action::Reset,
        ActionBody::Unlock(unlock) => Action::Unlock { connector: connector(unlock.connector)? },
        ActionBody::SetAvailability(set) => Action::SetAvailability { available: set.available },
    };
    if from.within_ms > MAX_WITHIN_MS {
        return Err(WireError::Range { what: "within_ms" });
    }
    let deadline = Deadline { answers_nonce: from.answers_nonce, boot: from.boot, within_ms: from.within_ms };
    Ok(Some(DownCommand { id: id("id", &from.id)?, child: child(from.child)?, action, deadline }))
}
