//! The memory of commands (CMD-1): an id is durable before its command is carried out, so it never is twice;
//! whoever sends it again gets the same end again, for a day.

use crate::ring::CommandNote;
use chargeplane_domain::ids::CommandId;
use chargeplane_domain::units::Timestamp;
use chargeplane_protocol::message::{CommandEnd, DownCommand};
use std::collections::BTreeMap;

/// Most commands remembered. When all of them are younger than a day, new ones are refused.
pub(crate) const MAX_COMMANDS: usize = 16_384;

/// Notes in the log beyond those in memory before it is written anew.
const COMPACT_AFTER: usize = 1_024;

#[derive(Debug)]
struct Known {
    child: u16,
    command: Option<DownCommand>,
    end: Option<CommandEnd>,
    at: Timestamp,
}

/// What is known of an id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing.
    New,
    /// It is being carried out.
    Running,
    /// It has ended.
    Ended(CommandEnd),
}

/// The memory.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    known: BTreeMap<CommandId, Known>,
    notes: usize,
}

impl Commands {
    /// Reads the notes of earlier boots, in their order.
    pub fn recover(notes: &[CommandNote]) -> Self {
        let mut commands = Self::default();
        for note in notes {
            commands.note(note);
        }
        commands
    }

    /// Commands without an end, given to the hardware before this boot.
    pub fn unresolved(&self) -> Vec<DownCommand> {
        self.known.values().filter(|known| known.end.is_none()).filter_map(|known| known.command.clone()).collect()
    }

    pub fn seen(&self, id: &CommandId) -> Seen {
        match self.known.get(id) {
            None => Seen::New,
            Some(Known { end: None, .. }) => Seen::Running,
            Some(Known { end: Some(end), .. }) => Seen::Ended(end.clone()),
        }
    }

    /// The charger of a command that is being carried out.
    pub fn running_child(&self, id: &CommandId) -> Option<u16> {
        self.known.get(id).filter(|known| known.end.is_none()).map(|known| known.child)
    }

    /// Takes a note into the memory; the caller writes it to the ring.
    pub fn note(&mut self, note: &CommandNote) {
        self.notes += 1;
        match note {
            CommandNote::Accepted { command, at } => {
                let known = Known { child: command.child, command: Some(command.clone()), end: None, at: *at };
                self.known.insert(command.id.clone(), known);
            }
            CommandNote::Ended { id, child, end, at } => {
                let known = Known { child: *child, command: None, end: Some(end.clone()), at: *at };
                self.known.insert(id.clone(), known);
            }
        }
    }

    /// Forgets ends older than `memory_ms`. Returns what the log must keep, when it should be written anew.
    pub fn forget(&mut self, now: Timestamp, memory_ms: i64) -> Option<Vec<CommandNote>> {
        if self.notes < self.known.len() + COMPACT_AFTER && self.known.len() < MAX_COMMANDS {
            return None;
        }
        self.known.retain(|_, known| known.end.is_none() || now.since(known.at) < memory_ms);
        let keep: Vec<CommandNote> = self.known.iter().filter_map(|(id, known)| known.as_note(id)).collect();
        let worth_it = self.notes > keep.len();
        self.notes = keep.len();
        worth_it.then_some(keep)
    }

    pub fn is_full(&self) -> bool {
        self.known.len() >= MAX_COMMANDS
    }
}

impl Known {
    fn as_note(&self, id: &CommandId) -> Option<CommandNote> {
        match (&self.end, &self.command) {
            (Some(end), _) => {
                Some(CommandNote::Ended { id: id.clone(), child: self.child, end: end.clone(), at: self.at })
            }
            (None, Some(command)) => Some(CommandNote::Accepted { command: command.clone(), at: self.at }),
            (None, None) => None,
        }
    }
}
