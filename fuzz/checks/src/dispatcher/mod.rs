//! A center's dispatcher with its real handlers, driven by a script and compared with a model of the contract.

mod house;
mod model;
mod script;

use house::House;
use script::Script;

/// Whatever several peers send, v1 and with sessions, while they come, go and stop reading: each request is answered
/// once, with its id, its kind + 1 and the code that the contract names; pushes and notices reach exactly those that the
/// contract names, in order; a peer without a session sees nothing of what sessions add; and when all have gone, the
/// tables are empty.
///
/// The bytes are a script of steps, two bytes or more each; `script` says what they mean.
pub fn check_dispatcher(script: &[u8]) {
    let mut house = House::new();
    for step in Script::new(script) {
        house.take(&step);
    }
    house.close_all();
}
