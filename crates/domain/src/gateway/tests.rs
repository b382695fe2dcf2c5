use super::*;
use proptest::prelude::*;

fn take(gateway: &mut GatewayState, stream: u8, boot: BootId, upto: u64) -> Result<bool, GatewayRejection> {
    move_to(gateway, stream, boot, upto, None)
}

fn refuse(gateway: &mut GatewayState, boot: BootId, upto: u64) -> Result<bool, GatewayRejection> {
    move_to(gateway, 0, boot, upto, Some("unknown_child".to_owned()))
}

fn move_to(
    gateway: &mut GatewayState,
    stream: u8,
    boot: BootId,
    upto: u64,
    refused: Option<String>,
) -> Result<bool, GatewayRejection> {
    let event = gateway.decide(&GatewayCommand::MoveCursor { stream, boot, upto, refused })?;
    if let Some(event) = &event {
        gateway.apply(event).unwrap();
    }
    Ok(event.is_some())
}

#[test]
fn the_newest_boots_of_each_stream_are_kept() {
    let mut gateway = GatewayState::default();
    let boot = |boot| BootId::new(1, boot);
    for number in 1..=10 {
        assert_eq!(take(&mut gateway, 0, boot(number), 5), Ok(true));
    }
    assert_eq!(take(&mut gateway, 1, boot(1), 5), Ok(true)); // another stream counts its own boots
    assert_eq!(gateway.cursors.len(), BOOTS_KEPT + 1);
    assert_eq!((2..=10).map(|n| gateway.cursor(0, boot(n))).collect::<Vec<_>>(), [0, 5, 5, 5, 5, 5, 5, 5, 5]);
    let stale = take(&mut gateway, 0, boot(2), 9);
    assert_eq!(stale, Err(GatewayRejection::StaleBoot { stream: 0, boot: boot(2) }));
    assert_eq!(stale.unwrap_err().code(), "stale_boot");
    assert_eq!(take(&mut gateway, 0, boot(3), 9), Ok(true)); // an old boot that is still kept goes on
}

/// A new enrolment with an empty ring counts from boot 1 again, however many boots the former one had.
#[test]
fn a_new_key_begins_a_numbering_of_its_own() {
    let mut gateway = GatewayState::default();
    for number in 1..=9 {
        take(&mut gateway, 0, BootId::new(1, number), 5).unwrap();
    }
    assert_eq!(gateway.cursor(0, BootId::new(2, 1)), 0);
    assert_eq!(take(&mut gateway, 0, BootId::new(2, 1), 1), Ok(true));
    assert_eq!(gateway.cursor(0, BootId::new(1, 9)), 5, "the former one's goes on beside it");
}

#[test]
fn refusals_are_part_of_the_state_and_bounded() {
    let mut gateway = GatewayState::default();
    let boot = BootId::new(1, 1);
    assert_eq!((take(&mut gateway, 0, boot, 1), refuse(&mut gateway, boot, 2)), (Ok(true), Ok(true)));
    assert_eq!(gateway.refusals(0, boot).collect::<Vec<_>>(), [(2, "unknown_child")]);
    assert_eq!(refuse(&mut gateway, boot, 1), Ok(false), "what is durable is not refused afterwards");
    assert_eq!(gateway.refusals(0, BootId::new(2, 1)).count(), 0);
    for seq in 3..100 {
        refuse(&mut gateway, boot, seq).unwrap();
    }
    let kept: Vec<u64> = gateway.refusals(0, boot).map(|(seq, _)| seq).collect();
    assert_eq!(kept, (36..100).collect::<Vec<_>>());
    let long = move_to(&mut gateway, 0, boot, 100, Some("\u{e9}".repeat(200)));
    assert_eq!((long, gateway.refusals(0, boot).last().unwrap().1.len()), (Ok(true), 64));
}

#[test]
fn an_event_that_goes_back_is_an_error_and_changes_nothing() {
    let mut gateway = GatewayState::default();
    let boot = BootId::new(1, 1);
    take(&mut gateway, 2, boot, 7).unwrap();
    let before = gateway.clone();
    for upto in [0, 6, 7] {
        let refused = Some("late".to_owned());
        assert!(gateway.apply(&GatewayEvent::CursorMoved { stream: 2, boot, upto, refused }).is_err());
    }
    assert_eq!(gateway, before);
}

proptest! {
    /// A cursor is the highest sequence that was taken, for every boot that is kept; and the state is the
    /// same after a round through either stored form.
    #[test]
    fn cursors_are_maxima(moves in prop::collection::vec((0_u8..3, (1_u32..3, 0_u32..8), 0_u64..50, any::<bool>()), 0..80)) {
        let mut gateway = GatewayState::default();
        let mut highest = BTreeMap::<(u8, BootId), u64>::new();
        for (stream, (key_epoch, boot), upto, refused) in moves {
            let boot = BootId::new(key_epoch, boot);
            let refused = refused.then(|| "code".to_owned());
            if move_to(&mut gateway, stream, boot, upto, refused).is_ok() {
                let known = highest.entry((stream, boot)).or_default();
                *known = upto.max(*known);
            }
        }
        for (key, upto) in &gateway.cursors {
            prop_assert_eq!(highest.get(key), Some(upto));
        }
        for stream in 0..3 {
            prop_assert!(gateway.boots(stream).count() <= BOOTS_KEPT);
        }
        let json = serde_json::to_string(&gateway).unwrap();
        prop_assert_eq!(&serde_json::from_str::<GatewayState>(&json).unwrap(), &gateway);
        let packed = rmp_serde::to_vec(&gateway).unwrap();
        prop_assert_eq!(&rmp_serde::from_slice::<GatewayState>(&packed).unwrap(), &gateway);
    }
}
