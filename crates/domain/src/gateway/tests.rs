use super::*;
use proptest::prelude::*;

fn take(gateway: &mut GatewayState, stream: u8, boot: u32, upto: u64) -> Result<bool, GatewayRejection> {
    let event = gateway.decide(&GatewayCommand::MoveCursor { stream, boot, upto })?;
    if let Some(event) = &event {
        gateway.apply(event).unwrap();
    }
    Ok(event.is_some())
}

#[test]
fn the_newest_boots_of_each_stream_are_kept() {
    let mut gateway = GatewayState::default();
    for boot in 1..=10 {
        assert_eq!(take(&mut gateway, 0, boot, 5), Ok(true));
    }
    assert_eq!(take(&mut gateway, 1, 1, 5), Ok(true)); // another stream counts its own boots
    assert_eq!(gateway.cursors.len(), BOOTS_KEPT + 1);
    assert_eq!((gateway.cursor(0, 2), gateway.cursor(0, 3), gateway.cursor(0, 10)), (0, 5, 5));
    let stale = take(&mut gateway, 0, 2, 9);
    assert_eq!(stale, Err(GatewayRejection::StaleBoot { stream: 0, boot: 2 }));
    assert_eq!(stale.unwrap_err().code(), "stale_boot");
    assert_eq!(take(&mut gateway, 0, 3, 9), Ok(true)); // an old boot that is still kept goes on
}

#[test]
fn an_event_that_goes_back_is_an_error_and_changes_nothing() {
    let mut gateway = GatewayState::default();
    take(&mut gateway, 2, 1, 7).unwrap();
    let before = gateway.clone();
    for upto in [0, 6, 7] {
        assert!(gateway.apply(&GatewayEvent::CursorMoved { stream: 2, boot: 1, upto }).is_err());
    }
    assert_eq!(gateway, before);
}

proptest! {
    /// A cursor is the highest sequence that was taken, for every boot that is kept; and the state is the
    /// same after a round through either stored form.
    #[test]
    fn cursors_are_maxima(moves in prop::collection::vec((0_u8..3, 0_u32..12, 0_u64..50), 0..80)) {
        let mut gateway = GatewayState::default();
        let mut highest = BTreeMap::<(u8, u32), u64>::new();
        for (stream, boot, upto) in moves {
            if take(&mut gateway, stream, boot, upto).is_ok() {
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
