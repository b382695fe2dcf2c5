//! A node that is killed with -9 again and again under load: what its clients were told against what its books say.
//!
//! For the tests of a journal. The test's own program, started again, is the node ([`serve`]): the actors with one
//! shard a family on that journal. The clients live in the parent ([`run`]), which nobody kills, so their record of what
//! was acknowledged outlives every node. They talk over loopback; a slot has one request outstanding, and after each
//! start asks again for whatever was not answered.
//!
//! A node ends at a named point of a commit ([`super::crash`]) or, from outside, at any moment. After each end, and
//! again when the next node has opened its shards, the frames are read from the store by code that is not the node's
//! ([`RawLog`], [`books`]) and compared: each acknowledged request is there once, nothing is there that was not asked
//! for, the log is whole (OWN-1), balances as served are those of the log, and a repeated request is answered as before
//! (MONEY-2, MONEY-3).

mod books;
mod clients;
mod node;

pub use node::serve;

use super::crash::{CrashPoint, VARIABLE};
use books::Books;
use clients::{Behind, Clients};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A node starts, answers and ends within this.
const PATIENCE: Duration = Duration::from_secs(90);

/// A node ends at most at the so many-th commit, or after so many answers for each of these.
const COMMITS: u64 = 12;
const ANSWERS_A_COMMIT: u64 = 8;

const SIGKILL: i32 = 9;

/// The log of the shard `account-0000` as the store has it: read by what `docs/reference/storage.md` says, not by the
/// adapter under test.
pub trait RawLog {
    /// The head, and the frames behind `after` up to it, in their order and byte for byte as they are stored. None when
    /// nobody ever opened the shard.
    fn read(&mut self, after: u64) -> Result<Option<RawShard>, String>;
}

/// What a store says of a shard.
#[derive(Debug, Default)]
pub struct RawShard {
    /// The head's epoch.
    pub epoch: u64,
    /// The number of the last frame.
    pub last_lsn: u64,
    /// Its hash.
    pub last_hash: Vec<u8>,
    /// The frames that were asked for.
    pub frames: Vec<Vec<u8>>,
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often a node is killed.
    pub kills: u32,
    /// Decides when.
    pub seed: u64,
    /// A fault planted into the node, by its name in [`node::PLANTS`]: the run must fail then.
    pub plant: Option<&'static str>,
}

impl Default for Plan {
    /// 200 kills; 1,000 where tests may take long (`CHARGEPLANE_LONG`).
    fn default() -> Self {
        let long = std::env::var_os("CHARGEPLANE_LONG").is_some();
        Self { kills: if long { 1_000 } else { 200 }, seed: 1, plant: None }
    }
}

/// What happened, by the place of the kill.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were acknowledged.
    pub acknowledged: u64,
    /// By name of the point.
    pub points: BTreeMap<&'static str, Point>,
}

/// The kills at one point.
#[derive(Debug, Default, Clone, Copy)]
pub struct Point {
    /// How many.
    pub kills: u32,
    /// Of them, so many after which something that was asked for was not in the books.
    pub lost: u32,
    /// And so many after which something was in the books that nobody had been told of.
    pub untold: u32,
}

impl Outcome {
    /// Whether the kills were where they should be: before the store nothing of the commit is in the books, behind it
    /// all is and nobody was told.
    pub fn exercised(&self) -> Result<(), String> {
        for point in CrashPoint::ALL {
            let Point { kills, lost, untold } = self.points.get(point.name()).copied().unwrap_or_default();
            let shown = if point == CrashPoint::BeforeStore { lost } else { untold };
            if kills == 0 || shown.saturating_mul(2) < kills {
                return Err(format!("{}: {kills} kills, and only {shown} show it in the books", point.name()));
            }
        }
        Ok(())
    }
}

/// This test program again, as its test of this name, which calls [`serve`].
pub fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_default());
    command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads", "1"]);
    command
}

/// Kills nodes and compares.
///
/// # Errors
/// In words: the first difference between what clients were told and what the books say, or why there was no run.
pub fn run(plan: &Plan, program: &dyn Fn() -> Command, log: &mut dyn RawLog) -> Result<Outcome, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    let mut dice = Dice(plan.seed);
    let (mut clients, mut books, mut outcome) = (Clients::default(), Books::default(), Outcome::default());
    for round in 0..plan.kills {
        let kill = Kill::draw(round, &mut dice);
        let told = |what: String| format!("kill {round}, {kill:?}: {what}");
        let mut life = Life::start(program(), &listener, Some(kill), plan.plant).map_err(told)?;
        life.look(&mut clients, &mut books, log).map_err(told)?;
        life.load(&mut clients, kill).map_err(told)?;
        life.killed().map_err(told)?;
        books.read(log).map_err(told)?;
        outcome.note(kill, clients.compare(&books).map_err(told)?);
    }
    let mut last = Life::start(program(), &listener, None, plan.plant)?;
    last.look(&mut clients, &mut books, log)?;
    last.end()?;
    outcome.acknowledged = clients.acknowledged();
    Ok(outcome)
}

impl Outcome {
    fn note(&mut self, kill: Kill, behind: Behind) {
        let point = self.points.entry(kill.name()).or_default();
        point.kills += 1;
        point.lost += u32::from(behind.lost > 0);
        point.untold += u32::from(behind.untold > 0);
    }
}

/// When a node ends.
#[derive(Debug, Clone, Copy)]
enum Kill {
    /// By itself, when it passes the point for the so many-th time.
    At(CrashPoint, u64),
    /// From outside, after so many answers.
    Anywhere(u64),
}

impl Kill {
    fn draw(round: u32, dice: &mut Dice) -> Self {
        let number = dice.below(COMMITS) + 1;
        let turn = usize::try_from(round).unwrap_or(0) % (CrashPoint::ALL.len() + 1);
        match CrashPoint::ALL.get(turn) {
            Some(point) => Self::At(*point, number),
            None => Self::Anywhere(dice.below(number * ANSWERS_A_COMMIT) + 1),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::At(point, _) => point.name(),
            Self::Anywhere(_) => "anywhere",
        }
    }
}

/// One process of the node.
struct Life {
    child: Child,
    lines: BufReader<TcpStream>,
}

impl Life {
    /// Starts it and waits until its shards are open.
    fn start(
        mut program: Command,
        listener: &TcpListener,
        kill: Option<Kill>,
        plant: Option<&str>,
    ) -> Result<Self, String> {
        let address = listener.local_addr().map_err(|e| e.to_string())?.to_string();
        program.env(node::PARENT, address).env_remove(VARIABLE).env_remove(node::PLANT);
        if let Some(Kill::At(point, number)) = kill {
            program.env(VARIABLE, format!("{}:{number}", point.name()));
        }
        program.envs(plant.map(|plant| (node::PLANT, plant)));
        let child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut child = child.map_err(|e| format!("the node cannot be started: {e}"))?;
        match accept(listener, &mut child) {
            Ok(stream) => {
                let mut life = Self { child, lines: BufReader::new(stream) };
                match life.line()?.as_deref() {
                    Some("ready") => Ok(life),
                    other => Err(format!("the node said {other:?} instead of `ready`")),
                }
            }
            Err(error) => {
                drop((child.kill(), child.wait()));
                Err(error)
            }
        }
    }

    /// What the node says next; none when it has ended.
    fn line(&mut self) -> Result<Option<String>, String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Ok(None),
            // A line that a kill cut off was not said.
            Ok(_) => Ok(line.strip_suffix('\n').map(str::to_owned)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(format!("the node neither answers nor ends within {} s", PATIENCE.as_secs()))
            }
            Err(_) => Ok(None),
        }
    }

    /// Asks. A node that has just ended does not hear it, which the next [`Self::line`] tells.
    fn ask(&mut self, lines: &str) {
        let _ = self.lines.get_mut().write_all(lines.as_bytes());
    }

    /// Compares when the shards are open and nothing is under way: nothing can land in the log any more that a former
    /// life had sent.
    fn look(&mut self, clients: &mut Clients, books: &mut Books, log: &mut dyn RawLog) -> Result<(), String> {
        books.read(log)?;
        clients.compare(books)?;
        self.ask("balances\n");
        let Some(served) = self.line()? else { return Ok(()) };
        books.compare_balances(&served)?;
        let repeats = clients.repeats(books);
        let lines = repeats.iter().fold(String::new(), |mut all, (slot, number)| {
            // Writing to a String cannot fail.
            let _ = writeln!(all, "{slot} {number}");
            all
        });
        self.ask(&lines);
        for _ in repeats {
            let Some(answer) = self.line()? else { break };
            clients.take(&answer)?;
        }
        Ok(())
    }

    /// All slots ask until the node has ended.
    fn load(&mut self, clients: &mut Clients, kill: Kill) -> Result<(), String> {
        let first: Vec<String> = (0..clients::SLOTS).map(|slot| clients.next_request(slot)).collect();
        self.ask(&first.concat());
        let mut answers = 0;
        while let Some(answer) = self.line()? {
            let slot = clients.take(&answer)?;
            answers += 1;
            if matches!(kill, Kill::Anywhere(after) if after == answers) {
                self.child.kill().map_err(|e| e.to_string())?;
            }
            let request = clients.next_request(slot);
            self.ask(&request);
        }
        Ok(())
    }

    /// It has ended, by SIGKILL and by nothing else.
    fn killed(mut self) -> Result<(), String> {
        let status = self.wait()?;
        match status.signal() {
            Some(SIGKILL) => Ok(()),
            _ => Err(format!("the node was not killed: {status}")),
        }
    }

    /// Tells it to end.
    fn end(mut self) -> Result<(), String> {
        self.ask("end\n");
        let status = self.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the last node ended badly: {status}")) }
    }

    fn wait(&mut self) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().map_err(|e| e.to_string())? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err("the node does not end".to_owned())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let prepared = stream
                    .set_nonblocking(false)
                    .and_then(|()| stream.set_nodelay(true))
                    .and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
                return prepared.map(|()| stream).map_err(|e| e.to_string());
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error.to_string()),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return Err(format!("the node ended before it served: {status}"));
        }
        if Instant::now() > deadline {
            return Err(format!("the node does not serve within {} s", PATIENCE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// SplitMix64: the same seed, the same kills.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
