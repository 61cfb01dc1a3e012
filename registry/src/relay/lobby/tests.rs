use std::time::Duration;

use proptest::prelude::*;

use super::*;

const BOUNDS: LobbyBounds = LobbyBounds { calls: 8, bytes: 100 };

/// What waits, in the order in which it came.
type Model = Vec<Waiting<u8, u32>>;

/// By one of four callers, for one of two providers and methods.
fn waiting(now: Instant, serial: u32, seed: u8) -> Waiting<u8, u32> {
    Waiting {
        caller: seed % 4,
        id: (!seed.is_multiple_of(5)).then(|| CallerId::from_slice(&[seed % 3])),
        host: Host::relayed(if seed & 16 == 0 { "i-1" } else { "i-2" }),
        method: Arc::from(if seed & 32 == 0 { "add" } else { "sub" }),
        until: now + Duration::from_secs(u64::from(seed % 7)),
        bytes: usize::from(seed % 40),
        held: serial,
    }
}

/// Takes those out that fulfil a condition.
fn take(model: &mut Model, is_one: impl Fn(&Waiting<u8, u32>) -> bool) -> Vec<u32> {
    let taken = model.iter().filter(|one| is_one(one)).map(|one| one.held).collect();
    model.retain(|one| !is_one(one));
    taken
}

fn serials(mut out: Model) -> Vec<u32> {
    out.sort_by_key(|one| one.held);
    out.into_iter().map(|one| one.held).collect()
}

fn most(model: &Model, caller: u8) -> (usize, usize) {
    let own = model.iter().filter(|one| one.caller == caller);
    own.fold((0, 0), |(calls, bytes), one| (calls + 1, bytes + one.bytes))
}

proptest! {
    /// Against a plain list: each call comes out once and for the right reason, both bounds hold, and nobody gives way to
    /// one that would have as much.
    #[test]
    fn each_call_comes_out_once_and_the_bounds_hold(steps in prop::collection::vec((0..8_u8, any::<u8>()), 1..200)) {
        let (mut lobby, mut model, mut now) = (Lobby::new(BOUNDS), Model::new(), Instant::now());
        for (serial, (step, seed)) in (0..).zip(steps) {
            match step {
                0..=3 => {
                    let new = waiting(now, serial, seed);
                    let room = lobby.make_room(&new.caller, new.bytes);
                    for gone in room.as_ref().into_iter().flatten() {
                        let (had, has) = (most(&model, gone.caller), most(&model, new.caller));
                        prop_assert!(gone.caller != new.caller);
                        prop_assert!(had.0 > has.0 + 1 || had.1 > has.1 + new.bytes, "{had:?} {has:?}");
                        let newest = model.iter().rposition(|one| one.caller == gone.caller);
                        prop_assert_eq!(newest.map(|at| model.remove(at).held), Some(gone.held));
                    }
                    if room.is_ok() {
                        lobby.enter(new.clone());
                        model.push(new);
                    }
                }
                4 => {
                    let place = waiting(now, serial, seed);
                    let at = model.iter().position(|one| one.host == place.host && one.method == place.method);
                    let is_listed = lobby.methods(place.host, &Arc::from(""), usize::MAX).contains(&place.method);
                    prop_assert_eq!(is_listed, at.is_some());
                    let popped = lobby.pop(place.host, &place.method).map(|one| one.held);
                    prop_assert_eq!(popped, at.map(|at| model.remove(at).held));
                }
                5 => {
                    let id = CallerId::from_slice(&[seed % 3]);
                    let given_up = lobby.give_up(&(seed % 4), &id);
                    let expected = take(&mut model, |one| one.caller == seed % 4 && one.id.as_ref() == Some(&id));
                    prop_assert_eq!(serials(given_up), expected);
                }
                6 => {
                    let given_up = lobby.give_up_all(&(seed % 4));
                    let expected = take(&mut model, |one| one.caller == seed % 4 && one.id.is_some());
                    prop_assert_eq!(serials(given_up), expected);
                }
                _ => {
                    now += Duration::from_secs(u64::from(seed % 3));
                    // In pieces.
                    let mut over = Vec::new();
                    while lobby.next_due().is_some_and(|due| due <= now) {
                        let piece = lobby.expired(now, 2);
                        prop_assert!((1..=2).contains(&piece.len()));
                        over.extend(piece);
                    }
                    prop_assert_eq!(serials(over), take(&mut model, |one| one.until <= now));
                }
            }
            let bytes: usize = model.iter().map(|one| one.bytes).sum();
            prop_assert!(model.len() <= BOUNDS.calls && bytes <= BOUNDS.bytes);
            prop_assert_eq!((lobby.len(), lobby.bytes()), (model.len(), bytes));
            prop_assert_eq!(lobby.next_due(), model.iter().map(|one| one.until).min());
        }
        let all = model.iter().map(|one| one.held).collect::<Vec<_>>();
        prop_assert_eq!(serials(lobby.close(usize::MAX)), all);
        prop_assert_eq!(lobby.make_room(&1, 1), Err(NoRoom::Closed));
        prop_assert!(lobby.by_place.is_empty() && lobby.by_id.is_empty() && lobby.by_caller.is_empty());
    }
}

#[test]
fn nobody_gives_way_to_a_call_for_which_there_would_be_no_room_all_the_same() {
    let now = Instant::now();
    let mut lobby = Lobby::new(BOUNDS);
    for (serial, caller, bytes) in [(0, 1, 20), (1, 1, 20), (2, 1, 20), (3, 2, 30)] {
        assert_eq!(lobby.make_room(&caller, bytes), Ok(Vec::new()));
        lobby.enter(Waiting { caller, bytes, ..waiting(now, serial, 0) });
    }
    // Once the first has given up one it would have less than that.
    assert_eq!(lobby.make_room(&3, 45), Err(NoRoom::Bytes { bound: 100 }));
    assert_eq!((lobby.len(), lobby.bytes()), (4, 90));
    let gave_way = lobby.make_room(&3, 25).unwrap();
    assert_eq!(gave_way.iter().map(|gone| gone.held).collect::<Vec<_>>(), [2], "the newest of who has most");
    assert_eq!((lobby.len(), lobby.bytes()), (3, 70));
}
