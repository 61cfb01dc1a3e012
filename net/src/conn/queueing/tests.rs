use callboard_common::{Codec, LengthValue, MessageType};

use super::*;
use crate::shared_state::SharedState;
use crate::{Ends, Limits};

/// A body of so many bytes.
struct Blank(usize);

impl Encode for Blank {
    fn kind(&self) -> MessageType {
        MessageType::RpcResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.resize(out.len() + self.0, b' ');
        Ok(())
    }
}

fn conn() -> Conn {
    let limits = Limits::default();
    let shared = SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true);
    Conn::new(Arc::new(shared), Ends::default())
}

#[test]
fn a_large_answer_that_is_refused_leaves_no_memory_behind() {
    let (conn, gone) = (conn(), conn());
    gone.end("gone");
    assert!(gone.answer(b"1", &Blank(15 << 20)).is_err());
    assert!(SCRATCH.with_borrow(BytesMut::capacity) <= KEEP_SCRATCH_BYTES);
    conn.answer(b"2", &Blank(4_000)).unwrap();
    let kept = SCRATCH.with_borrow(BytesMut::capacity);
    assert!((4_000..=KEEP_SCRATCH_BYTES).contains(&kept), "small answers use it again: {kept}");
}
