use std::sync::Arc;
use std::time::Duration;

use super::House;
use super::programs::Role;

/// Two faults at once, of two machines or of what lies between them and others, and their ends some time later.
pub(super) async fn round(house: &Arc<House>) {
    house.sim.sleep(house.sim.draw_time(PAUSE)).await;
    let one = pick(house);
    let other = loop {
        let other = pick(house);
        if other != one {
            break other;
        }
    };
    tokio::join!(biased; fault(house, one), fault(house, other));
}

async fn fault(house: &Arc<House>, victim: usize) {
    let (sim, time) = (&house.sim, house.sim.draw_time(LONGEST));
    sim.sleep(sim.draw_time(APART)).await;
    let (Some(member), Some(other)) = (house.members.get(victim), house.members.get(any(house))) else { return };
    let (one, other) = (&member.host, &other.host);
    match sim.draw(10) {
        0 => {
            house.forget(member);
            one.kill();
            sim.sleep(time).await;
            house.start(member);
        }
        1 => {
            house.forget(member);
            one.switch_off();
            sim.sleep(time).await;
            one.switch_on();
            house.start(member);
        }
        2 => {
            house.forget(member);
            one.leave();
            sim.sleep(time).await;
            house.start(member);
        }
        3 => {
            house.forget(member);
            member.ask_to_end();
            sim.sleep(time).await;
            house.start(member);
        }
        4 => {
            one.stop();
            sim.sleep(time).await;
            one.go_on();
        }
        5 => {
            one.cut(other);
            sim.sleep(time).await;
            one.heal(other);
        }
        6 => {
            one.cut(other);
            one.reset(other);
            sim.sleep(time).await;
            one.heal(other);
        }
        7 => one.lose(other),
        8 => one.lose_to(other),
        _ => sim.jump(time).await,
    }
}

/// One in four is a center; they are the first.
fn pick(house: &House) -> usize {
    if house.sim.draw(4) == 0 { draw(house, house.count(Role::Center)) } else { any(house) }
}

fn any(house: &House) -> usize {
    draw(house, house.members.len())
}

fn draw(house: &House, below: usize) -> usize {
    usize::try_from(house.sim.draw(below as u64)).unwrap_or(0)
}

/// Before a fault.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two faults that go together.
const APART: Duration = Duration::from_secs(1);
/// A fault takes so long at most.
const LONGEST: Duration = Duration::from_secs(4);
