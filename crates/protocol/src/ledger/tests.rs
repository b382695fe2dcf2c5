use super::*;
use chargeplane_domain::account::{AccountKind, AccountSummary, DebitAnswer, Holder, Settled, TransferTarget};
use chargeplane_domain::ids::SessionId;
use chargeplane_domain::split::Split;
use chargeplane_domain::tariff::fees::{Fees, MeteredTime};
use chargeplane_domain::tariff::{PERIODS, Price, Priced, Slots, Tariff};
use chargeplane_domain::units::{Currency, Money, Timestamp, WattHours};
use proptest::prelude::*;

const LIMIT: usize = 65_536;

fn currency() -> Currency {
    Currency::new("CNY").unwrap()
}

fn tariff() -> Tariff {
    let price = |energy| Price { energy: Money(energy), service: Money(4_000) };
    let fees = Fees { flat: Money(5), idle_grace_s: 60, max: Some(Money(900)), ..Fees::NONE };
    Tariff { currency: currency(), prices: [1, 2, 3, 4].map(price), slots: Slots::uniform(2).unwrap(), fees }
}

fn agreement() -> Split {
    serde_json::from_str(r#"{"shares": {"main/owner": 6000, "main/op1": 4000}, "remainder": "main/op1"}"#).unwrap()
}

fn amounts() -> impl Strategy<Value = Money> {
    prop_oneof![any::<i64>(), -10_i64..10, Just(i64::MIN), Just(i64::MAX)].prop_map(Money)
}

fn keys() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9-]{1,40}", ".{0,200}"]
}

fn accounts() -> impl Strategy<Value = AccountId> {
    "[a-zA-Z0-9._-]{1,64}(/[a-zA-Z0-9._-]{1,64})?".prop_map(|text| text.parse().unwrap())
}

fn sessions() -> impl Strategy<Value = SessionId> {
    "[a-z0-9.]{1,64}".prop_map(|text| text.parse().unwrap())
}

/// Zero, which is left out, and anything else.
fn times() -> impl Strategy<Value = MeteredTime> {
    let any = (any::<i64>(), any::<i64>()).prop_map(|(charging_ms, idle_ms)| MeteredTime { charging_ms, idle_ms });
    prop_oneof![Just(MeteredTime::NONE), any]
}

fn readings() -> impl Strategy<Value = (u32, WattHours, [WattHours; PERIODS], Priced)> {
    let by_period = any::<[i64; PERIODS]>().prop_map(|periods| periods.map(WattHours));
    let fees = prop_oneof![Just(Money::ZERO), amounts()];
    (any::<u32>(), any::<i64>(), by_period, amounts(), amounts(), fees).prop_map(
        |(sequence, meter, by_period, energy, service, fees)| {
            (sequence, WattHours(meter), by_period, Priced { energy, service, fees })
        },
    )
}

fn moments() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

fn commands() -> impl Strategy<Value = AccountCommand> {
    let kinds = prop_oneof![Just(AccountKind::Prepaid), amounts().prop_map(|limit| AccountKind::Credit { limit })];
    let open = (keys(), kinds, any::<bool>(), moments()).prop_map(|(key, kind, fleet, at)| {
        let holder = if fleet { Holder::Fleet } else { Holder::Personal };
        AccountCommand::Open { key, currency: currency(), kind, holder, at }
    });
    let asked = || any::<bool>().prop_map(|known| known.then(currency));
    let top_up = (keys(), amounts(), asked(), moments())
        .prop_map(|(key, amount, currency, at)| AccountCommand::TopUp { key, amount, currency, at });
    let adjust = (keys(), amounts(), asked(), ".{0,600}", moments())
        .prop_map(|(key, amount, currency, reason, at)| AccountCommand::Adjust { key, amount, currency, reason, at });
    let close = (keys(), moments()).prop_map(|(key, at)| AccountCommand::Close { key, at });
    let transfer = (keys(), accounts(), amounts(), moments()).prop_map(|(key, to, amount, at)| {
        AccountCommand::TransferOut { key, to, amount, currency: None, target: TransferTarget::Unknown, at }
    });
    let authorise = (sessions(), any::<bool>(), amounts(), amounts(), moments()).prop_map(
        |(session, shared, want, reserve, at)| AccountCommand::Authorise {
            session,
            operator: "main/op1".parse().unwrap(),
            tariff: tariff(),
            split: shared.then(agreement),
            want,
            reserve,
            at,
        },
    );
    let debit = (sessions(), readings(), amounts(), moments(), times()).prop_map(
        |(session, (sequence, meter, by_period, cumulative), hold_target, at, time)| AccountCommand::Debit {
            session,
            sequence,
            meter,
            by_period,
            cumulative,
            hold_target,
            at,
            time,
        },
    );
    let settle = (sessions(), readings(), moments(), times()).prop_map(
        |(session, (sequence, meter, by_period, cumulative), at, time)| AccountCommand::Settle {
            session,
            sequence,
            meter,
            by_period,
            cumulative,
            at,
            time,
        },
    );
    prop_oneof![open, top_up, adjust, close, transfer, authorise, debit, settle]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let debited = (readings(), amounts(), amounts(), times()).prop_map(
        |((sequence, meter, by_period, cumulative), hold_left, available, time)| {
            AccountAnswer::Debited(DebitAnswer { sequence, meter, by_period, cumulative, hold_left, available, time })
        },
    );
    let settled = (readings(), amounts(), amounts(), moments(), times()).prop_map(
        |((sequence, meter, by_period, cumulative), billed, released, at, time)| {
            AccountAnswer::Settled(Settled {
                sequence,
                meter,
                by_period,
                cumulative,
                billed,
                billed_wh: meter,
                overshoot: Money::ZERO,
                overshoot_wh: WattHours::ZERO,
                released,
                at,
                time,
            })
        },
    );
    let opened = (accounts(), amounts()).prop_map(|(id, balance)| {
        AccountAnswer::Opened(AccountSummary {
            id,
            currency: currency(),
            kind: AccountKind::Prepaid,
            holder: Holder::Personal,
            status: Default::default(),
            balance,
            held: Money::ZERO,
            available: balance,
            open_sessions: 0,
            opened_at: Timestamp(1),
        })
    });
    let done = prop_oneof![debited, settled, opened, Just(AccountAnswer::Frozen)].prop_map(Outcome::Done);
    let rejections = prop_oneof![
        Just(AccountRejection::UnknownAccount),
        amounts().prop_map(|available| AccountRejection::InsufficientFunds { available }),
        any::<u32>().prop_map(|expected| AccountRejection::SequenceGap { expected }),
    ];
    let refused = (rejections, ".{0,40}")
        .prop_map(|(rejection, detail)| Outcome::Refused(Refusal { code: rejection.code().into(), detail, rejection }));
    let failed = ("[a-z_]{1,20}", ".{0,40}", any::<bool>())
        .prop_map(|(code, detail, nothing_done)| Outcome::Failed(Failure { code: code.into(), detail, nothing_done }));
    let closing = ("[a-z_]{1,20}", ".{0,40}", any::<u64>())
        .prop_map(|(code, detail, frame)| Outcome::Closing(Closing { code: code.into(), detail, frame }));
    let welcome = any::<(u16, u32, u32, u64)>().prop_map(|(version, max_frame_bytes, max_outstanding, idle_ms)| {
        Outcome::Welcome(Welcome { version, max_frame_bytes, max_outstanding, idle_ms })
    });
    prop_oneof![done, refused, failed, closing, welcome]
}

/// The only frame that is there.
fn only(bytes: &[u8]) -> &[u8] {
    let (value, rest) = split(bytes, LIMIT).unwrap().unwrap();
    assert!(rest.is_empty());
    value
}

proptest! {
    #[test]
    fn requests_are_read_as_they_were_written(
        requests in prop::collection::vec((any::<u64>(), accounts(), commands(), any::<bool>()), 1..8)
    ) {
        let mut bytes = Vec::new();
        for (number, account, command, compact) in &requests {
            write_request(&mut bytes, *number, account, command, *compact).unwrap();
        }
        let mut rest = &bytes[..];
        for (number, account, command, _) in requests {
            let (value, after) = split(rest, LIMIT).unwrap().unwrap();
            prop_assert_eq!(read_request(value), Ok(Request(number, account, command)));
            rest = after;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn responses_are_read_as_they_were_written(number in any::<u64>(), outcome in outcomes(), compact in any::<bool>()) {
        let response = Response(number, outcome);
        let mut bytes = Vec::new();
        write_response(&mut bytes, &response, compact).unwrap();
        prop_assert_eq!(read_response(only(&bytes)), Ok(response));
    }

    #[test]
    fn random_bytes_are_an_error_or_what_they_are_read_as(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some((value, rest))) = split(&bytes, LIMIT) {
            prop_assert_eq!(value.len() + rest.len() + LENGTH_BYTES, bytes.len());
        }
        let _ = (read_hello(&bytes), read_response(&bytes));
        if let Err(RequestError::Frame(error) | RequestError::Content(_, error)) = read_request(&bytes) {
            prop_assert!(error.byte <= bytes.len() as u64);
        }
    }

    /// Sound requests with some bytes changed reach deeper than noise does.
    #[test]
    fn a_damaged_request_never_panics_and_what_is_read_is_written_again(
        command in commands(), compact in any::<bool>(), damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = Vec::new();
        write_request(&mut bytes, 7, &"main/a".parse().unwrap(), &command, compact).unwrap();
        let mut value = only(&bytes).to_vec();
        for (at, byte) in damage {
            let at = usize::from(at) % value.len();
            value[at] = byte;
        }
        if let Ok(request) = read_request(&value) {
            let mut again = Vec::new();
            write_request(&mut again, request.0, &request.1, &request.2, true).unwrap();
            prop_assert_eq!(read_request(only(&again)), Ok(request));
        }
    }

    #[test]
    fn a_request_cut_anywhere_is_waited_for_and_never_read(command in commands(), cut in any::<u16>()) {
        let mut bytes = Vec::new();
        write_request(&mut bytes, 7, &"main/a".parse().unwrap(), &command, true).unwrap();
        let cut = usize::from(cut) % bytes.len();
        prop_assert_eq!(split(&bytes[..cut], LIMIT), Ok(None));
        if cut > LENGTH_BYTES {
            prop_assert!(read_request(&bytes[LENGTH_BYTES..cut]).is_err());
        }
    }
}

#[test]
fn a_frame_beyond_the_limit_is_refused_by_its_length_alone() {
    assert_eq!(split(&[0, 1, 0, 1], LIMIT), Err(FrameError::TooLarge { bytes: 65_537, limit: LIMIT }));
    assert_eq!(split(&[0, 1, 0, 0], LIMIT), Ok(None));
    assert_eq!(split(&[0, 0, 0, 0, 9], LIMIT), Ok(Some((&[][..], &[9][..]))));
    assert_eq!(split(&[255, 255, 255], LIMIT), Ok(None));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let mut bytes = Vec::new();
    let debit = (9_u64, "main/a", std::collections::BTreeMap::from([("debit", ("main/s1", "one"))]));
    rmp_serde::encode::write(&mut bytes, &debit).unwrap();
    let Err(RequestError::Content(9, error)) = read_request(&bytes) else { panic!("{:?}", read_request(&bytes)) };
    assert!(error.path == "[2].debit[1]", "{error}");
    assert!(error.byte > 20 && error.byte <= bytes.len() as u64, "{error}");

    let bad_id = rmp_serde::to_vec(&(9_u64, "a b", "close")).unwrap();
    let Err(RequestError::Content(9, error)) = read_request(&bad_id) else { panic!("{:?}", read_request(&bad_id)) };
    assert!(error.what.contains("character ' '"), "{error}");

    let no_number = rmp_serde::to_vec(&("nine", "a", "close")).unwrap();
    assert!(matches!(read_request(&no_number), Err(RequestError::Frame(_))));
    let mut longer = rmp_serde::to_vec(&(9_u64, "a", "close")).unwrap();
    longer.push(0xc0);
    assert!(matches!(read_request(&longer), Err(RequestError::Frame(_))));
}

#[test]
fn deep_nesting_is_an_error_and_not_a_deep_stack() {
    let mut deep = vec![0x93, 1, 0xa1, b'a'];
    deep.extend(std::iter::repeat_n(0x91, 60_000));
    assert!(matches!(read_request(&deep), Err(RequestError::Frame(_))));
}

#[test]
fn a_hello_is_read_in_either_form_and_does_not_show_its_token() {
    let token = "t".repeat(32);
    for compact in [true, false] {
        let hello = Hello { version: VERSION, token: token.clone(), compact };
        let mut bytes = Vec::new();
        write_hello(&mut bytes, &hello).unwrap();
        assert_eq!(read_hello(only(&bytes)), Ok(hello.clone()));
        assert!(!format!("{hello:?}").contains("tt"), "{hello:?}");
    }
    let short = rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("version", 1)])).unwrap();
    assert!(read_hello(&short).unwrap_err().what.contains("token"));
}

/// The bytes that the reference page shows.
#[test]
fn the_example_of_the_reference_page_is_what_is_written() {
    let page = include_str!("../../../../docs/reference/ledger-wire.md");
    let shown = |title: &str| {
        let from = page.split_once(title).unwrap_or_else(|| panic!("{title} is not on the page")).1;
        let block = from.split("```").nth(1).unwrap().trim_start_matches("text");
        let digits: String = block.chars().filter(char::is_ascii_hexdigit).collect();
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect::<Vec<_>>()
    };
    let mut hello = Vec::new();
    write_hello(&mut hello, &Hello { version: 1, token: "0123456789abcdef0123456789abcdef".into(), compact: true })
        .unwrap();
    assert_eq!(shown("A hello, byte by byte"), hello);
    let mut debit = Vec::new();
    let command = AccountCommand::Debit {
        session: "main/s1".parse().unwrap(),
        sequence: 2,
        meter: WattHours(200),
        by_period: [WattHours(0), WattHours(0), WattHours(200), WattHours(0)],
        cumulative: Priced { energy: Money(1_400), service: Money(800), fees: Money::ZERO },
        hold_target: Money(20_000),
        at: Timestamp(0),
        time: MeteredTime::NONE,
    };
    write_request(&mut debit, 7, &"main/a1".parse().unwrap(), &command, true).unwrap();
    assert_eq!(shown("A debit, byte by byte"), debit);
}

mod admitted {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_392_000_000);

    proptest! {
        #[test]
        fn the_time_is_always_the_nodes(command in commands()) {
            let mut command = command;
            if admit(&"main/a".parse().unwrap(), &mut command, NOW).is_ok() {
                let text = serde_json::to_value(&command).unwrap();
                let fields = text.as_object().unwrap().values().next().unwrap();
                prop_assert_eq!(&fields["at"], NOW.0);
            }
        }
    }

    #[test]
    fn what_accounts_tell_each_other_is_no_clients() {
        let account: AccountId = "main/a".parse().unwrap();
        let mut arriving = AccountCommand::TransferIn {
            transfer: "main/b.t1".parse().unwrap(),
            ended_below: 0,
            currency: currency(),
            amount: Money(1),
            at: NOW,
        };
        assert_eq!(admit(&account, &mut arriving, NOW), Err(NotAdmitted::Internal("transfer_in")));
        let mut ended = AccountCommand::EndTransfer { number: 1, refused: None, at: NOW };
        assert_eq!(admit(&account, &mut ended, NOW), Err(NotAdmitted::Internal("end_transfer")));
    }

    #[test]
    fn whoever_is_named_is_of_the_accounts_tenant() {
        let account: AccountId = "main/a".parse().unwrap();
        let authorise = |session: &str, operator: &str, split| AccountCommand::Authorise {
            session: session.parse().unwrap(),
            operator: operator.parse().unwrap(),
            tariff: tariff(),
            split,
            want: Money(1),
            reserve: Money(0),
            at: NOW,
        };
        assert_eq!(admit(&account, &mut authorise("main/s", "main/op1", Some(agreement())), NOW), Ok(()));
        let mut foreign = agreement();
        foreign.shares.insert("acme/x".parse().unwrap(), 1);
        for mut bad in [
            authorise("acme/s", "main/op1", None),
            authorise("main/s", "acme/op1", None),
            authorise("main/s", "main/op1", Some(foreign)),
        ] {
            let refused = admit(&account, &mut bad, NOW).unwrap_err();
            assert!(refused.to_string().contains("is of tenant acme, the account is of main"), "{refused}");
        }
    }
}
