//! How a command ends: stable exit codes (`docs/errors/exit-codes.md`) and one message for a person.

use std::fmt;
use std::process::ExitCode;

/// Exit codes, stable across versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The node refused, or a difference was found.
    Refused = 1,
    /// Wrong arguments, configuration or input file: nothing was tried.
    Usage = 2,
    /// The node did not answer, not in time, or does not serve at the moment.
    Unreachable = 3,
    /// A store failed.
    Store = 4,
    /// A port or the data directory is in use.
    Busy = 5,
    /// A node was told to end and did not flush everything in time.
    Undrained = 6,
    /// The program failed.
    Internal = 70,
    /// A second signal ended the node without draining.
    Interrupted = 130,
}

/// Why a command did not do what it was asked: what happened, what it means, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub code: Code,
    /// What to tell the person.
    pub message: String,
}

impl Failure {
    /// A failure with its code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The caller did something wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// The program did something wrong.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Tells the person and makes the exit code.
pub fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_exit_codes_lists_them_all() {
        let page = include_str!("../../../docs/errors/exit-codes.md");
        let all = [
            Code::Refused,
            Code::Usage,
            Code::Unreachable,
            Code::Store,
            Code::Busy,
            Code::Undrained,
            Code::Internal,
            Code::Interrupted,
        ];
        for code in all {
            let row = format!("| {} | {} |", code as u8, format!("{code:?}").to_lowercase());
            assert!(page.contains(&row), "{row}");
        }
    }
}
