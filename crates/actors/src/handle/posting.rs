//! Commands to accounts from who has thousands of them under way: no task, no channel and no timer for each.

use super::*;
use crate::reply::Answers;

impl NodeHandle {
    /// Hands a command to its account; the answer is collected under `number`, exactly once, perhaps before this
    /// returns. There is no time limit: who collects watches the time, and tells who asked that a command that is
    /// late may have been executed.
    pub fn post(
        &self,
        account: &AccountId,
        command: AccountCommand,
        answers: &Arc<dyn Answers<AccountAnswer>>,
        number: u64,
    ) {
        let reply = Reply::numbered(Arc::clone(answers), number);
        self.shared.router.account(account, Lane::Money, 256, move |permit| AccountMessage::Command {
            command: Box::new(command),
            reply,
            permit,
        });
    }

    /// For tests: commands that were handed over and have no answer yet.
    #[cfg(any(test, feature = "testing"))]
    pub fn posted(&self) -> usize {
        self.shared.router.lanes().depth(Lane::Money)
    }
}
